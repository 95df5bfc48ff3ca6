// Pointwise and dense convolutions, as products of the channels of pixels with matrices.
#pragma once

#include "vectors.hpp"

namespace hwnas {

// The positions in a plane that a convolution's taps read for the first output pixel, block 0.
template <class v>
struct Taps {
  const v* at[9];
  int count;
  Index block;  // vectors from one block of channels to the next
};

// `out[p, o] = sum_t sum_c in[t, p S, c] w[t, c, o]` for P pixels and OB blocks of outputs.
// w is [taps][channels][blocks]; out has its own strides between pixels and between blocks.
template <int OB, int P, int S, class T, int V, class v>
INLINE void pointwise_pixels(const Taps<v>& in, Index offset, int channels, const v* w, Index blocks,
                             v* out, Index pixel, Index block) {
  v sum[P][OB];
  UNROLL for (int p = 0; p < P; p++)
    UNROLL for (int b = 0; b < OB; b++) sum[p][b] = v{};
  for (int t = 0; t < in.count; t++) {
    const v* base = in.at[t] + offset * S;
    for (int c0 = 0; c0 < channels; c0 += V, base += in.block) {
      const T* lane = reinterpret_cast<const T*>(base);
      const int lanes = channels - c0 < V ? channels - c0 : V;
      for (int c = 0; c < lanes; c++, w += blocks) {
        v factor[OB];
        UNROLL for (int b = 0; b < OB; b++) factor[b] = w[b];
        UNROLL for (int p = 0; p < P; p++) {
          const v x = broadcast<v>(lane[p * S * V + c]);
          UNROLL for (int b = 0; b < OB; b++) sum[p][b] += x * factor[b];
        }
      }
    }
  }
  UNROLL for (int p = 0; p < P; p++)
    UNROLL for (int b = 0; b < OB; b++) out[p * pixel + b * block] = sum[p][b];
}

// All pixels for OB blocks of outputs; the last step may overlap the one before it.
template <int OB, int S, class T, int V, class v>
INLINE void pointwise_blocks(const Taps<v>& in, Index pixels, int channels, const v* w, Index blocks,
                             v* out, Index pixel, Index block, const Ahead& ahead) {
  constexpr int P = OB == 1 || REGISTERS == 32 ? 12 : 6;
  Index p = 0;
  for (; p + P <= pixels; p += P) {
    UNROLL for (int b = 0; b < OB; b++) ahead.block(b).fetch(p, P);
    pointwise_pixels<OB, P, S, T, V>(in, p, channels, w, blocks, out + p * pixel, pixel, block);
  }
  if (p < pixels && pixels >= P && pixels - p > 4) {
    p = pixels - P;
    pointwise_pixels<OB, P, S, T, V>(in, p, channels, w, blocks, out + p * pixel, pixel, block);
    return;
  }
  for (; p + 4 <= pixels; p += 4)
    pointwise_pixels<OB, 4, S, T, V>(in, p, channels, w, blocks, out + p * pixel, pixel, block);
  for (; p < pixels; p++)
    pointwise_pixels<OB, 1, S, T, V>(in, p, channels, w, blocks, out + p * pixel, pixel, block);
}

template <int S, class T, int V, class v>
void pointwise(const Taps<v>& in, Index pixels, int channels, const v* w, Index blocks, v* out,
               Index pixel, Index block, const Ahead& ahead = {}) {
  Index b = 0;
  for (; b + 2 <= blocks; b += 2)
    pointwise_blocks<2, S, T, V>(in, pixels, channels, w + b, blocks, out + b * block, pixel, block,
                                 ahead.block(b));
  if (b < blocks)
    pointwise_blocks<1, S, T, V>(in, pixels, channels, w + b, blocks, out + b * block, pixel, block,
                                 ahead.block(b));
}

// Pixels whose gradients of weights are summed from zero before they are added to the total.
constexpr Index PIXELS_OF_PART = 1024;

// Sums over many pixels: in parts, each from zero, so that rounding errors stay small.
template <class v>
struct PartSums {
  explicit PartSums(Index size) : size(size), part(size), total(size) {}

  // Adds the present part to the total; the next one starts from zero.
  void finish_part() {
    for (Index i = 0; i < size; i++) total[i] += part[i], part[i] = v{};
  }
  void add_total(PartSums& other) {
    for (Index i = 0; i < size; i++) total[i] += other.total[i];
  }

  const Index size;
  Buffer<v> part, total;
};

// `d_w[c, o] += sum_p u[p S, c] dz[p, o]` for CI channels and OB blocks.
template <int CI, int OB, int S, class T, int V, class v>
INLINE void outer_block(const T* u, const v* dz, Index dz_block, Index pixels, v* d_w, Index blocks) {
  v sum[CI][OB];
  UNROLL for (int c = 0; c < CI; c++)
    UNROLL for (int b = 0; b < OB; b++) sum[c][b] = d_w[c * blocks + b];
  for (Index p = 0; p < pixels; p++) {
    v g[OB];
    UNROLL for (int b = 0; b < OB; b++) g[b] = dz[b * dz_block + p];
    UNROLL for (int c = 0; c < CI; c++) {
      const v x = broadcast<v>(u[p * S * V + c]);
      UNROLL for (int b = 0; b < OB; b++) sum[c][b] += x * g[b];
    }
  }
  UNROLL for (int c = 0; c < CI; c++)
    UNROLL for (int b = 0; b < OB; b++) d_w[c * blocks + b] = sum[c][b];
}

// The same for all channels: d_w is [in_blocks V][blocks]. Channels that pad the layout get zero.
template <int S, class T, int V, class v>
void outer(const v* u, Index in_blocks, Index u_block, const v* dz, Index blocks, Index dz_block,
           Index pixels, v* d_w) {
  constexpr int HALF = V / 2;
  for (Index in = 0; in < in_blocks; in++) {
    const T* lane = reinterpret_cast<const T*>(u + in * u_block);
    v* row = d_w + in * V * blocks;
    Index b = 0;
    for (; b + 2 <= blocks; b += 2)
      for (int c = 0; c < V; c += HALF)
        outer_block<HALF, 2, S, T, V>(lane + c, dz + b * dz_block, dz_block, pixels,
                                      row + c * blocks + b, blocks);
    if (b < blocks)
      outer_block<V, 1, S, T, V>(lane, dz + b * dz_block, dz_block, pixels, row + b, blocks);
  }
}

}  // namespace hwnas
