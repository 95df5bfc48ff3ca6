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
  int32_t lanes, is_double, threads;
  int32_t short_stages; /* whether what stages return is stored in bfloat16, for float only */
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

/* A tensor (N, OH, OW, width), a 3x3 pool that is computed while its input is read, or a tensor
   that is stored in bfloat16. */
enum { TENSOR = 0, MAXIMUM = 1, MEAN_OF_WINDOW = 2, SHORT_TENSOR = 3 };

typedef struct {
  const void *data;         /* the tensor, or the input of the pool, (N, height, width_px, width) */
  int64_t height, width_px; /* of the pool's input */
  int32_t kind, stride;
} Value;

typedef struct {
  Value value;
  const void *row; /* (6, width) */
  double weight;
  int64_t position; /* of the weight among the mixing weights of a program */
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
enum { MEAN = 0, SCALE = 1, SHIFT = 2, RSTD = 3, VARIANCE = 4, RESIDUAL = 5, TABLE_ROWS = 6 };

/* A batch norm whose table row is computed. */
typedef struct {
  void *row;                /* (6, width) */
  const double *statistics; /* (2, width); NULL for the running ones, or without them the identity */
  const void *gamma, *beta; /* (channels), NULL for ones and zeros */
  void *mean, *variance;    /* running statistics, (channels) */
} Norm;

/* A weighted term whose sums are known, for which gradients are computed. */
typedef struct {
  const void *row;         /* (6, width) */
  const double *sums;      /* (2, width) */
  void *coefficients;      /* (3, width) */
  void *d_gamma, *d_beta;  /* (channels), NULL where not needed */
  int64_t position;        /* of its weight among the mixing weights, -1 for a weight of 1 */
  int64_t batch;           /* whether the statistics depend on the values */
} NormGradient;

/* A program is what one pass through a cell computes: steps, and lists that they refer to. All
   addresses in it are references: the number of a base and an offset in bytes, as `REFERENCE`
   makes them; 0 is NULL. A call hands over the addresses of the bases. */
#define REFERENCE(base, offset) (((uint64_t)(base) << 48) + (uint64_t)(offset))

enum {
  CONVOLVE, CONVOLVE_BACKWARD, POOL_STATISTICS, MIX, REDUCE, NORMALISE, NORMALISE_BACKWARD,
  READ_IN, WRITE_OUT, CLEAR
};

typedef struct {
  Shape shape; /* its number of threads is that of the call */
  int32_t kind, stride;
  int32_t first, count; /* of the list that the step uses */
  int32_t first_edge, edges; /* of the pool gradients */
  int32_t reads, reserved;
  const void *values, *table, *before;
  void *outputs, *d_values;
  double *statistics;  /* or sums */
  int64_t strides[3];  /* of images, rows and pixels, in elements: READ_IN; bytes to CLEAR */
} Step;

typedef struct {
  const Step *steps;
  const Convolution *convolutions;
  const MixTerm *mix_terms;
  const ReduceTerm *reduce_terms;
  const PoolGradient *pool_gradients;
  const Norm *norms;
  const NormGradient *norm_gradients;
  int64_t counts[7]; /* of steps and of the lists, in this order */
} Program;

typedef struct {
  void *const *bases;
  const void *weights; /* mixing weights */
  void *d_weights;     /* their gradient; it is not cleared */
  double momentum;     /* of the running statistics, 0 to leave them as they are */
  int64_t threads;
} Call;
