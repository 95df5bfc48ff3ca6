/* The plain C interface of the kernels; `hwnas.kernels.cpu.binding` mirrors these structures.

   Activations are contiguous arrays (N, H, W, width). The width is a multiple of the lanes of a
   vector; channels after the first `channels` are zero. Statistics and sums are double, all other
   data float or double according to `is_double`. */
#pragma once

#include <stdint.h>

typedef struct {
  int64_t images, height, width_px; /* of the input */
  int64_t out_height, out_width;
  int64_t channels, width;
  int32_t lanes, is_double, threads, reserved;
} Shape;

enum { SEPARABLE = 0, DENSE = 1, FACTORIZED = 2 };

typedef struct {
  int32_t kind, kernel, dilation, stride, reads, reserved;
  const void *first, *second;            /* weights, in PyTorch's layout */
  void *first_gradient, *second_gradient; /* NULL where not needed */
  const void *gradient;                  /* of the normalised output, (N, OH, OW, width) */
  const void *coefficients;              /* (3, width): dz = a g + b (z - mean) + d */
  const void *row;                       /* (6, width), table row of the output's norm */
} Convolution;

/* A tensor (N, OH, OW, width), or a 3x3 pool that is computed while its input is read. */
enum { TENSOR = 0, MAXIMUM = 1, MEAN_OF_WINDOW = 2 };

typedef struct {
  const void *data;         /* the tensor, or the input of the pool, (N, height, width_px, width) */
  int64_t height, width_px; /* of the pool's input */
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
