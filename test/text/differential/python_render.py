"""Renders a case as apply_chat_template of transformers 5.23.0 does, and adds `expected`, or `error`, to it."""

import datetime
import signal

from transformers.utils import chat_template_utils as utils

NOW = datetime.datetime(2026, 3, 5, 14, 7, 9)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


utils.datetime = Clock


class Slow(BaseException):
    pass


def too_slow(*_):
    raise Slow()


signal.signal(signal.SIGALRM, too_slow)


def render(case, mask=False):
    messages = [{k: v for k, v in m.items() if v is not None} if isinstance(m, dict) else m for m in case["messages"]]
    out = dict(case)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        if not messages:
            raise ValueError("Cannot apply chat template to an empty conversation.")
        if case.get("continueFinalMessage") and case.get("addGenerationPrompt"):
            raise ValueError("continue_final_message and add_generation_prompt are not compatible.")
        texts, regions = utils.render_jinja_template(
            [messages], tools=case.get("tools"), documents=case.get("documents"), chat_template=case["template"],
            add_generation_prompt=case.get("addGenerationPrompt", False), continue_final_message=case.get("continueFinalMessage", False),
            return_assistant_tokens_mask=mask, **case.get("variables", {}))
        texts[0].encode()
        out["expected"] = texts[0]
        if mask:
            out["regions"] = [list(r) for r in regions[0]]
    except Slow:
        out["error"] = {"type": "Slow", "message": "", "raised": False}
    except Exception as error:  # what Python raises is what the case records
        out["error"] = {"type": type(error).__name__, "message": str(error)[:200], "raised": type(error).__name__ == "TemplateError"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return out
