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
// pixels would be added twice: then the last pixels are computed four or one at a time. If `ahead`
// is not NULL, one vector for each output, `step` apart, is prefetched from it.
template <int K, int D, int S, bool ADD, class v>
INLINE void depthwise_row(const v* in, Index row, const v* w, v* out, Index width,
                          const v* ahead = nullptr, Index step = 0) {
  constexpr int P = 8;
  Index p = 0;
  for (; p + P <= width; p += P) {
    if (ahead) fetch_ahead(ahead + p * step, step, P);
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

// `d_w[i K + j] += sum_p du[p] in[i D rows down, p S + j D right]` for one row of pixels and ROWS
// rows of the kernel, whose accumulators stay in registers.
template <int K, int D, int S, int ROWS, class v>
INLINE void depthwise_weights_rows(const v* in, Index row, const v* du, v* d_w, Index width) {
  v sum[ROWS * K];
  UNROLL for (int t = 0; t < ROWS * K; t++) sum[t] = d_w[t];
  for (Index p = 0; p < width; p++) {
    const v g = du[p];
    UNROLL for (int i = 0; i < ROWS; i++)
      UNROLL for (int j = 0; j < K; j++) sum[i * K + j] += g * in[i * D * row + p * S + j * D];
  }
  UNROLL for (int t = 0; t < ROWS * K; t++) d_w[t] = sum[t];
}

// The same for the whole kernel, row by row where its accumulators would not fit in the registers.
template <int K, int D, int S, class v>
INLINE void depthwise_weights(const v* in, Index row, const v* du, v* d_w, Index width) {
  if constexpr (K * K + 4 <= REGISTERS) {
    depthwise_weights_rows<K, D, S, K>(in, row, du, d_w, width);
  } else {
    UNROLL for (int i = 0; i < K; i++)
      depthwise_weights_rows<K, D, S, 1>(in + i * D * row, row, du, d_w + i * K, width);
  }
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
