import { meter, TemplateRuntimeError } from "./limits.js";

const MONTHS = "January February March April May June July August September October November December".split(" ");
const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");
const two = (n: number) => String(n).padStart(2, "0");

const FIELDS: Readonly<Record<string, (d: Date) => string>> = {
  Y: (d) => String(d.getFullYear()),
  y: (d) => two(d.getFullYear() % 100),
  m: (d) => two(d.getMonth() + 1),
  B: (d) => MONTHS[d.getMonth()]!,
  b: (d) => MONTHS[d.getMonth()]!.slice(0, 3),
  d: (d) => two(d.getDate()),
  e: (d) => String(d.getDate()).padStart(2, " "),
  j: (d) =>
    String(
      Math.round((Date.UTC(d.getFullYear(), d.getMonth(), d.getDate()) - Date.UTC(d.getFullYear(), 0, 0)) / 86_400_000),
    ).padStart(3, "0"),
  A: (d) => DAYS[d.getDay()]!,
  a: (d) => DAYS[d.getDay()]!.slice(0, 3),
  H: (d) => two(d.getHours()),
  I: (d) => two(d.getHours() % 12 || 12),
  M: (d) => two(d.getMinutes()),
  S: (d) => two(d.getSeconds()),
  p: (d) => (d.getHours() < 12 ? "AM" : "PM"),
  F: (d) => strftime(d, "%Y-%m-%d"),
  T: (d) => strftime(d, "%H:%M:%S"),
  "%": () => "%",
};

/** Python's datetime.strftime in the C locale, local time; `%-d` drops the leading zero as glibc does. */
export function strftime(date: Date, format: string): string {
  meter.spend(format.length * 8);
  return format.replace(/%(-?)(.?)/gs, (whole, dash: string, letter: string) => {
    const field = Object.hasOwn(FIELDS, letter) ? FIELDS[letter] : undefined;
    if (!field) throw new TemplateRuntimeError(`strftime_now: the format ${JSON.stringify(whole)} is not known`);
    const value = field(date);
    return dash ? value.replace(/^[0 ]+(?=.)/, "") : value;
  });
}
