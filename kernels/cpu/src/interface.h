/* The plain C interface of the kernels; `hwnas.kernels.cpu.backend` mirrors these structures.

   Activations are (N, H, W, width), contiguous; width is a multiple of the vector's lanes, the
   channels beyond `channels` are zero. All pointers are to float or double, as `is_double` says,
   but for statistics and sums, which are double. */
#pragma once

#include <stdint.h>

typedef struct {
  int64_t images, height, width_px; /* of what is read */
  int64_t out_height, out_width;
  int64_t channels, width;
  int32_t lanes, is_double, threads, reserved;
} Shape;

enum { SEPARABLE = 0, DENSE = 1, FACTORIZED = 2 };

typedef struct {
  int32_t kind, kernel, dilation, stride, reads, reserved;
  const void *first, *second;            /* weights, in PyTorch's layout */
  void *first_gradient, *second_gradient; /* NULL where not needed */
  const void *gradient;                  /* (N, OH, OW, width), by the normalised output */
  const void *coefficients;              /* (3, width): dz = a g + b (z - mean) + d */
  const void *row;                       /* (6, width), the output's own norm */
} Convolution;

/* A tensor (N, OH, OW, width), or a 3x3 pool of one, taken when it is read. */
enum { TENSOR = 0, MAXIMUM = 1, MEAN_OF_WINDOW = 2 };

typedef struct {
  const void *data;         /* what is pooled, (N, height, width_px, width), or the tensor */
  int64_t height, width_px; /* of what is pooled */
  int32_t kind, stride;
} Value;

typedef struct {
  Value value;
  const void *row; /* (6, width) */
  double weight;
} MixTerm;

typedef struct {
  Value value;
  const void *gradient, *row;
} ReduceTerm;

typedef struct {
  const void *gradient;                 /* (N, OH, OW, width) */
  const void *maximum, *maximum_row;    /* coefficients (3, width), row (6, width); or NULL */
  const void *mean, *mean_row;
  const void *identity;                 /* coefficients or NULL */
} PoolGradient;

/* Rows of a norm's table. */
enum { MEAN = 0, SCALE = 1, SHIFT = 2, TABLE_ROWS = 6 };
