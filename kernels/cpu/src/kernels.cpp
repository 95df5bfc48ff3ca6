// The exported functions. This file is compiled once for each instruction set: INSTRUCTIONS is its
// name, REGISTER_BYTES the size of its vector registers.
//
// Each function returns 0 on success, 1 if memory ran out, and 2 if it was not compiled for the
// number of lanes.

#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "interface.h"

// A namespace for each instruction set, since the linker would merge templates of the same name.
#define hwnas HWNAS_CONCAT(hwnas_, INSTRUCTIONS)
#define HWNAS_CONCAT(a, b) HWNAS_CONCAT_EXPANDED(a, b)
#define HWNAS_CONCAT_EXPANDED(a, b) a##b
#define EXPORT(name) HWNAS_CONCAT(name##_, INSTRUCTIONS)

namespace {
#ifdef _OPENMP
inline int thread_number() { return omp_get_thread_num(); }
#else
inline int thread_number() { return 0; }
#endif
}  // namespace

#include "program.hpp"
#include "relu_pointwise.hpp"

namespace {

// Calls `f` with the scalar type and the number of lanes as constants.
template <class F>
int dispatch(const Shape* shape, F f) {
  try {
    constexpr int FLOATS = REGISTER_BYTES / sizeof(float);
    if (shape->is_double) {
      // float64 serves for comparisons only and is not compiled for AVX-512.
      if constexpr (REGISTER_BYTES < 64)
        if (shape->lanes == 4) return f(double{}, std::integral_constant<int, 4>{}), 0;
      return 2;
    }
    if (shape->lanes == FLOATS) return f(float{}, std::integral_constant<int, FLOATS>{}), 0;
    if constexpr (REGISTER_BYTES == 64)
      if (shape->lanes == 8) return f(float{}, std::integral_constant<int, 8>{}), 0;
    return 2;
  } catch (...) {
    return 1;  // kernels throw nothing but std::bad_alloc
  }
}

}  // namespace

extern "C" {

int EXPORT(hwnas_convolve)(const Shape* shape, const void* values, const void* table, int count,
                           const Convolution* convolutions, void* outputs, double* statistics) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::convolve<decltype(scalar), lanes.value>(*shape, values, table, count, convolutions,
                                                   outputs, statistics);
  });
}

int EXPORT(hwnas_convolve_backward)(const Shape* shape, const void* values, const void* table,
                                    int count, const Convolution* convolutions,
                                    const void* outputs, void* d_values, int reads, double* sums,
                                    int stride, int edges, const PoolGradient* list,
                                    const void* before) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::convolve_backward<decltype(scalar), lanes.value>(*shape, values, table, count,
                                                            convolutions, outputs, d_values, reads,
                                                            sums, stride, edges, list, before);
  });
}

int EXPORT(hwnas_pool_statistics)(const Shape* shape, const void* x, int stride,
                                  double* statistics) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::pool_statistics<decltype(scalar), lanes.value>(*shape, x, stride, statistics);
  });
}

int EXPORT(hwnas_mix)(const Shape* shape, int count, const MixTerm* terms, void* outputs) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::mix<decltype(scalar), lanes.value>(*shape, count, terms, outputs);
  });
}

int EXPORT(hwnas_reduce)(const Shape* shape, int count, const ReduceTerm* terms, double* sums) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::reduce<decltype(scalar), lanes.value>(*shape, count, terms, sums);
  });
}

int EXPORT(hwnas_statistics)(const Shape* shape, int count, const void* const* values,
                             double* out) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::statistics<decltype(scalar), lanes.value>(*shape, count, values, out);
  });
}

int EXPORT(hwnas_apply)(const Shape* shape, int count, const ReduceTerm* terms,
                        const void* coefficients, void* out) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::apply<decltype(scalar), lanes.value>(*shape, count, terms, coefficients, out);
  });
}

int EXPORT(hwnas_relu_pointwise)(const Shape* shape, const void* x, int width_out, const void* w,
                                 void* z) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::relu_pointwise<decltype(scalar), lanes.value>(*shape, x, width_out, w, z);
  });
}

int EXPORT(hwnas_relu_pointwise_backward)(const Shape* shape, const void* x, int width_out,
                                          const void* w, const void* dz, void* dx, void* dw) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::relu_pointwise_backward<decltype(scalar), lanes.value>(*shape, x, width_out, w, dz, dx,
                                                                  dw);
  });
}

int EXPORT(hwnas_run)(const Shape* shape, const Program* program, const Call* call) {
  return dispatch(shape, [&](auto scalar, auto lanes) {
    hwnas::run<decltype(scalar), lanes.value>(*program, *call);
  });
}

}  // extern "C"
