/* The 4-bit code books of bitsandbytes 0.50: value of each code, and the codes in ascending order of their values with the
 * midpoints between neighbours, which is how a value finds its nearest code. Internal linkage. */
#ifndef LOWRANK_CORE_CODES_H
#define LOWRANK_CORE_CODES_H
#include <stdint.h>

namespace lowrank {

static const float kNf4Values[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
static const uint8_t kNf4Order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static const float kFp4Values[16] = {
    0.0f, 0.0052083334885537624f, 0.6666666865348816f, 1.0f, 0.3333333432674408f, 0.5f, 0.1666666716337204f, 0.25f,
    0.0f, -0.0052083334885537624f, -0.6666666865348816f, -1.0f, -0.3333333432674408f, -0.5f, -0.1666666716337204f, -0.25f};
/* Both zeros are in the list: 0 takes code 0, small positive values code 8, as the library's CPU code does. */
static const uint8_t kFp4Order[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};

/* midpoints[i] lies between the i-th and the (i+1)-th value in ascending order, rounded to f32 as torch does. */
static inline void code4_midpoints(const float values[16], const uint8_t order[16], float midpoints[15]) {
  for (int i = 0; i < 15; ++i) midpoints[i] = (values[order[i]] + values[order[i + 1]]) * 0.5f;
}

}  // namespace lowrank
#endif
