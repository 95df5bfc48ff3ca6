// Depthwise convolutions of rows of pixels. Planes are [block][row][column] of vectors with a
// border of zeros; a block is as many channels as a vector has lanes.
#pragma once

#include "vectors.hpp"

namespace hwnas {

// `out[p] (+)= sum_ij in[i D rows down, p S + j D right] w[i K + j]` for P pixels.
template <int K, int D, int S, int P, bool ADD, class v>
INLINE void depthwise_pixels(const v* in, Index row, const v* w, v* out) {
  v sum[P];
  UNROLL for (int p = 0; p < P; p++) sum[p] = ADD ? out[p] : v{};
  UNROLL for (int i = 0; i < K; i++) {
    const v* line = in + i * D * row;
    UNROLL for (int j = 0; j < K; j++) {
      const v tap = w[i * K + j];
      UNROLL for (int p = 0; p < P; p++) sum[p] += line[p * S + j * D] * tap;
    }
  }
  UNROLL for (int p = 0; p < P; p++) out[p] = sum[p];
}

// One row of `width` outputs. The last step overlaps the one before it, except with ADD, where some
// pixels would be added twice: then the last pixels are computed four or one at a time.
template <int K, int D, int S, bool ADD, class v>
INLINE void depthwise_row(const v* in, Index row, const v* w, v* out, Index width,
                          const Ahead& ahead) {
  constexpr int P = 8;
  Index p = 0;
  for (; p + P <= width; p += P) {
    ahead.fetch(p, P);
    depthwise_pixels<K, D, S, P, ADD>(in + p * S, row, w, out + p);
  }
  if (p == width) return;
  if (!ADD && width >= P) {
    p = width - P;
    depthwise_pixels<K, D, S, P, ADD>(in + p * S, row, w, out + p);
    return;
  }
  for (; p + 4 <= width; p += 4)
    depthwise_pixels<K, D, S, 4, ADD>(in + p * S, row, w, out + p);
  for (; p < width; p++) depthwise_pixels<K, D, S, 1, ADD>(in + p * S, row, w, out + p);
}

// For P pixels `d_w[i K + j] += sum_p du[p] in[i D rows down, p S + j D right]`, and with OUTPUTS
// also `out[p] = sum_ij in[i D rows down, p S + j D right] w[i K + j]`. Each input is loaded once
// for both, and the sums of one row of the kernel stay in registers.
template <int K, int D, int S, int P, bool OUTPUTS, class v>
INLINE void depthwise_weights_pixels(const v* in, Index row, const v* du, const v* w, v* d_w,
                                     v* out) {
  v gradient[P], sum[P];
  UNROLL for (int p = 0; p < P; p++) gradient[p] = du[p], sum[p] = v{};
  UNROLL for (int i = 0; i < K; i++, w += K, d_w += K, in += D * row) {
    v taps[K], d_taps[K];
    UNROLL for (int j = 0; j < K; j++) d_taps[j] = d_w[j];
    UNROLL for (int j = 0; OUTPUTS && j < K; j++) taps[j] = w[j];
    UNROLL for (int at = 0; at <= (P - 1) * S + (K - 1) * D; at++) {
      const v value = in[at];
      UNROLL for (int j = 0; j < K; j++) {
        const int p = (at - j * D) / S;
        if (at < j * D || p >= P || p * S + j * D != at) continue;
        d_taps[j] += value * gradient[p];
        if (OUTPUTS) sum[p] += value * taps[j];
      }
    }
    UNROLL for (int j = 0; j < K; j++) d_w[j] = d_taps[j];
  }
  UNROLL for (int p = 0; OUTPUTS && p < P; p++) out[p] = sum[p];
}

// The same for one row of `width` pixels.
template <int K, int D, int S, bool OUTPUTS, class v>
INLINE void depthwise_weights(const v* in, Index row, const v* du, const v* w, v* d_w, v* out,
                              Index width, const Ahead& ahead) {
  constexpr int P = REGISTERS == 32 ? 8 : 4;
  Index p = 0;
  for (; p + P <= width; p += P) {
    ahead.fetch(p, P);
    depthwise_weights_pixels<K, D, S, P, OUTPUTS>(in + p * S, row, du + p, w, d_w, out + p);
  }
  for (; p + 3 <= width; p += 3)
    depthwise_weights_pixels<K, D, S, 3, OUTPUTS>(in + p * S, row, du + p, w, d_w, out + p);
  for (; p < width; p++)
    depthwise_weights_pixels<K, D, S, 1, OUTPUTS>(in + p * S, row, du + p, w, d_w, out + p);
}

// Gradient of the input at stride 2, for one parity of rows and columns: adds to `dx[2 p]` the sum
// of `du[(2 p + PARITY - offset) / 2] w[offset]` over the taps whose offset has the same parity.
// `dx` points to the first pixel of that parity.
template <int K, int D, int ROW_PARITY, int COLUMN_PARITY, class v>
INLINE void depthwise_strided_input(const v* du, Index row, const v* w, v* dx, Index count) {
  constexpr int R = K / 2;
  for (Index p = 0; p < count; p++) {
    v sum = dx[2 * p];
    UNROLL for (int i = 0; i < K; i++) {
      const int down = ROW_PARITY - (i - R) * D;
      if (down % 2 != 0) continue;
      UNROLL for (int j = 0; j < K; j++) {
        const int right = COLUMN_PARITY - (j - R) * D;
        if (right % 2 != 0) continue;
        sum += du[down / 2 * row + p + right / 2] * w[i * K + j];
      }
    }
    dx[2 * p] = sum;
  }
}

}  // namespace hwnas
