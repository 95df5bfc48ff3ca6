// Runs every exported function of the kernels on fixed numbers and prints what they return, so that
// builds for different processors can be compared. It is linked with the library.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "interface.h"

extern "C" {
int hwnas_convolve_portable(const Shape*, const void*, const void*, int, const Convolution*, void*,
                            double*);
int hwnas_convolve_backward_portable(const Shape*, const void*, const void*, int,
                                     const Convolution*, const void*, void*, int, double*, int, int,
                                     const PoolGradient*, const void*);
int hwnas_pool_statistics_portable(const Shape*, const void*, int, double*);
int hwnas_mix_portable(const Shape*, int, const MixTerm*, void*);
int hwnas_reduce_portable(const Shape*, int, const ReduceTerm*, double*);
int hwnas_statistics_portable(const Shape*, int, const void* const*, double*);
int hwnas_apply_portable(const Shape*, int, const ReduceTerm*, const void*, void*);
const char* hwnas_instructions();
}

namespace {

std::uint32_t state = 1;

double random_number() {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) / static_cast<double>(1 << 24) - 0.5;
}

// Memory aligned for vectors.
template <class T>
struct Array {
  std::size_t size;
  T* data;
  explicit Array(std::size_t n)
      : size(n), data(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64))) {}
  Array(const Array&) = delete;
  ~Array() { std::free(data); }
};

// Random numbers, with zeros in the channels that pad `width`.
template <class T>
void fill(Array<T>& a, int channels, int width) {
  for (std::size_t i = 0; i < a.size; i++)
    a.data[i] = static_cast<int>(i % width) < channels ? static_cast<T>(random_number()) : T(0);
}

template <class T>
void print(const char* name, const Array<T>& a) {
  for (std::size_t i = 0; i < a.size; i++) std::printf("%s %.9g\n", name, double(a.data[i]));
}

void check(int status) {
  if (status != 0) {
    std::printf("status %d\n", status);
    std::exit(1);
  }
}

template <class T>
void run() {
  const int images = 3, height = 7, wide = 6, channels = 6, width = 8, stride = 2, count = 4;
  const int pixels = height * wide, pixels_out = 4 * 3;
  const Shape in{images, height, wide, height, wide, channels, width, 4, sizeof(T) == 8, 2, 0};
  Shape strided = in;
  strided.out_height = 4;
  strided.out_width = 3;
  Array<T> x(images * pixels * width), table(6 * width), outputs(count * images * pixels_out * width);
  Array<T> weights(4096), gradients(4096), g(images * pixels_out * width), coefficients(3 * width);
  Array<T> mixed(images * pixels_out * width), dx(images * pixels * width);
  Array<T> applied(2 * images * pixels_out * width);
  Array<double> statistics(count * 2 * width), of_pools(4 * width), sums(2 * 2 * width);
  Array<double> of_values(2 * width), of_outputs(2 * width);
  fill(x, channels, width);
  fill(table, channels, width);
  fill(weights, 1, 1);
  fill(g, channels, width);
  fill(coefficients, channels, width);
  for (std::size_t i = 0; i < gradients.size; i++) gradients.data[i] = 0;

  Convolution convolutions[count] = {};
  const int kinds[count] = {SEPARABLE, SEPARABLE, DENSE, FACTORIZED}, kernels[count] = {3, 5, 3, 1};
  for (int i = 0; i < count; i++) {
    Convolution& c = convolutions[i];
    c.kind = kinds[i], c.kernel = kernels[i], c.dilation = i == 1 ? 2 : 1, c.stride = stride;
    c.first = weights.data + 1024 * i, c.second = weights.data + 1024 * i + 512;
    c.first_gradient = gradients.data + 1024 * i, c.second_gradient = gradients.data + 1024 * i + 512;
    c.gradient = g.data, c.coefficients = coefficients.data, c.row = table.data;
  }
  for (const void* rows : {static_cast<const void*>(nullptr), static_cast<const void*>(table.data)}) {
    check(hwnas_convolve_portable(&strided, x.data, rows, count, convolutions, outputs.data,
                                  statistics.data));
    print("convolve", outputs);
    print("statistics of convolve", statistics);
    const PoolGradient edges[] = {
        {g.data, coefficients.data, table.data, coefficients.data, table.data, nullptr}};
    check(hwnas_convolve_backward_portable(&strided, x.data, rows, count, convolutions,
                                           outputs.data, dx.data, 1, rows ? of_values.data : nullptr,
                                           stride, rows ? 0 : 1, rows ? nullptr : edges, nullptr));
    print("gradient of the values", dx);
    print("gradients of weights", gradients);
    if (rows) print("sums", of_values);
  }
  check(hwnas_pool_statistics_portable(&strided, x.data, stride, of_pools.data));
  print("statistics of pools", of_pools);
  const Value pool{x.data, height, wide, MAXIMUM, stride}, mean{x.data, height, wide,
                                                                MEAN_OF_WINDOW, stride};
  const Value tensor{outputs.data, 0, 0, TENSOR, 0};
  const MixTerm terms[] = {{pool, table.data, .3}, {mean, table.data, .5}, {tensor, table.data, .2}};
  check(hwnas_mix_portable(&strided, 3, terms, mixed.data));
  print("mix", mixed);
  const ReduceTerm reduced[] = {{pool, g.data, table.data}, {tensor, g.data, table.data}};
  check(hwnas_reduce_portable(&strided, 2, reduced, sums.data));
  print("reduce", sums);
  Shape out = strided;
  out.height = out.out_height, out.width_px = out.out_width;
  const void* values[] = {outputs.data};
  check(hwnas_statistics_portable(&out, 1, values, of_outputs.data));
  print("statistics", of_outputs);
  const ReduceTerm added[] = {{tensor, g.data, table.data}, {tensor, g.data, table.data}};
  Array<T> both(2 * 3 * width);
  fill(both, channels, width);
  check(hwnas_apply_portable(&out, 2, added, both.data, applied.data));
  print("apply", applied);
}

}  // namespace

int main() {
  std::fprintf(stderr, "%s\n", hwnas_instructions());
  run<float>();
  run<double>();
}
