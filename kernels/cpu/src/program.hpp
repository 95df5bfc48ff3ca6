// Runs the steps of a program.
#pragma once

#include <cmath>
#include <vector>

#include "backward.hpp"
#include "mixing.hpp"
#include "norms.hpp"

namespace hwnas {

constexpr double EPS = 1e-5;  // of batch norms

// The lists of a program with addresses in place of references.
class Resolved {
 public:
  Resolved(const Program& program, void* const* bases)
      : steps(program.steps, program.steps + program.counts[0]),
        convolutions(program.convolutions, program.convolutions + program.counts[1]),
        mix_terms(program.mix_terms, program.mix_terms + program.counts[2]),
        reduce_terms(program.reduce_terms, program.reduce_terms + program.counts[3]),
        pool_gradients(program.pool_gradients, program.pool_gradients + program.counts[4]),
        norms(program.norms, program.norms + program.counts[5]),
        norm_gradients(program.norm_gradients, program.norm_gradients + program.counts[6]),
        bases_(bases) {
    for (Step& s : steps) all(s.values, s.table, s.before, s.outputs, s.d_values, s.statistics);
    for (Convolution& c : convolutions)
      all(c.first, c.second, c.first_gradient, c.second_gradient, c.gradient, c.coefficients,
          c.row);
    for (MixTerm& t : mix_terms) all(t.value.data, t.row);
    for (ReduceTerm& t : reduce_terms) all(t.value.data, t.gradient, t.row);
    for (PoolGradient& g : pool_gradients)
      all(g.gradient, g.maximum, g.maximum_row, g.mean, g.mean_row, g.identity);
    for (Norm& n : norms) all(n.row, n.statistics, n.gamma, n.beta, n.mean, n.variance);
    for (NormGradient& n : norm_gradients)
      all(n.row, n.sums, n.coefficients, n.d_gamma, n.d_beta);
  }

  std::vector<Step> steps;
  std::vector<Convolution> convolutions;
  std::vector<MixTerm> mix_terms;
  std::vector<ReduceTerm> reduce_terms;
  std::vector<PoolGradient> pool_gradients;
  std::vector<Norm> norms;
  std::vector<NormGradient> norm_gradients;

 private:
  template <class... Pointers>
  void all(Pointers&... pointers) {
    (resolve(pointers), ...);
  }
  template <class P>
  void resolve(P*& pointer) {
    const auto reference = reinterpret_cast<std::uint64_t>(pointer);
    if (reference == 0) return;
    const std::uint64_t offset = reference & ((std::uint64_t(1) << 48) - 1);
    pointer = reinterpret_cast<P*>(static_cast<char*>(bases_[reference >> 48]) + offset);
  }

  void* const* bases_;
};

// Fills the table row of a batch norm, and moves its running statistics towards the batch's own.
template <class T>
void normalise(const Shape& shape, double momentum, const Norm& n) {
  T* row = static_cast<T*>(n.row);
  T *running_mean = static_cast<T*>(n.mean), *running_variance = static_cast<T*>(n.variance);
  const T *gamma = static_cast<const T*>(n.gamma), *beta = static_cast<const T*>(n.beta);
  const Index width = shape.width;
  const double count = static_cast<double>(shape.images * shape.out_height * shape.out_width);
  for (Index c = 0; c < width; c++) {
    const bool real = c < shape.channels;
    const bool identity = !n.statistics && !running_mean;
    double mean = 0, variance = 0;
    if (n.statistics)
      mean = n.statistics[c], variance = n.statistics[width + c];
    else if (running_mean)
      mean = real ? running_mean[c] : 0, variance = real ? running_variance[c] : 0;
    const double rstd = identity ? 1 : 1 / std::sqrt(variance + EPS), residual = mean - static_cast<T>(mean);
    const double scale = gamma && real ? rstd * gamma[c] : rstd;
    const double shift = (beta && real ? beta[c] : 0) - scale * residual;
    const double values[TABLE_ROWS] = {mean, scale, shift, rstd, variance, residual};
    for (int i = 0; i < TABLE_ROWS; i++) row[i * width + c] = static_cast<T>(values[i]);
    if (!n.statistics || !running_mean || !real || momentum == 0) continue;
    const double unbiased = variance * (count / (count - 1));
    running_mean[c] = static_cast<T>(running_mean[c] + momentum * (mean - running_mean[c]));
    running_variance[c] =
        static_cast<T>(running_variance[c] + momentum * (unbiased - running_variance[c]));
  }
}

// The coefficients and gradients of a weighted term: README.md has the formulas.
template <class T>
void normalise_backward(const Shape& shape, const T* weights, T* d_weights,
                        const NormGradient& n) {
  const T* row = static_cast<const T*>(n.row);
  T* coefficients = static_cast<T*>(n.coefficients);
  T *d_gamma = static_cast<T*>(n.d_gamma), *d_beta = static_cast<T*>(n.d_beta);
  const Index width = shape.width;
  const double count = static_cast<double>(shape.images * shape.out_height * shape.out_width);
  const double weight = n.position < 0 ? 1 : weights[n.position];
  double d_weight = 0;
  for (Index c = 0; c < width; c++) {
    const double s = n.sums[c], t = n.sums[width + c], rstd = row[RSTD * width + c];
    const double residual = row[RESIDUAL * width + c], scale = row[SCALE * width + c];
    const double centred = t - residual * s, a = weight * scale;
    const double spread = n.batch ? a / count : 0, b = -spread * rstd * rstd * centred;
    coefficients[c] = static_cast<T>(a);
    coefficients[width + c] = static_cast<T>(b);
    coefficients[2 * width + c] = static_cast<T>(-spread * s - b * residual);
    d_weight += scale * t + row[SHIFT * width + c] * s;
    if (c >= shape.channels) continue;
    if (d_gamma) d_gamma[c] = static_cast<T>(weight * rstd * centred);
    if (d_beta) d_beta[c] = static_cast<T>(weight * s);
  }
  if (n.position >= 0 && d_weights) d_weights[n.position] = static_cast<T>(d_weight);
}

// Copies (N, H, W, channels) with any strides but one channel after the other to (N, H, W, width).
template <class T>
void read_in(const Shape& shape, const Index* strides, const T* from, T* to) {
  const Index rows = shape.height, channels = shape.channels, width = shape.width;
  for_each(shape.threads, shape.images * rows, no_work, [&](Nothing&, Index i) {
    const T* line = from + i / rows * strides[0] + i % rows * strides[1];
    T* out = to + i * shape.width_px * width;
    for (Index w = 0; w < shape.width_px; w++, line += strides[2], out += width) {
      std::memcpy(out, line, channels * sizeof(T));
      std::memset(out + channels, 0, (width - channels) * sizeof(T));
    }
  });
}

// Copies (N, H, W, width) to (N, H, W, channels).
template <class T>
void write_out(const Shape& shape, const T* from, T* to) {
  const Index pixels = shape.height * shape.width_px;
  for_each(shape.threads, shape.images, no_work, [&](Nothing&, Index n) {
    for (Index p = n * pixels; p < (n + 1) * pixels; p++)
      std::memcpy(to + p * shape.channels, from + p * shape.width, shape.channels * sizeof(T));
  });
}

template <class T, int V>
void run(const Program& program, const Call& call) {
  Resolved lists(program, call.bases);
  const T* weights = static_cast<const T*>(call.weights);
  for (MixTerm& term : lists.mix_terms) term.weight = weights[term.position];
  for (Step& s : lists.steps) {
    s.shape.threads = static_cast<int32_t>(call.threads);
    const Convolution* convolutions = lists.convolutions.data() + s.first;
    switch (s.kind) {
      case CONVOLVE:
        convolve<T, V>(s.shape, s.values, s.table, s.count, convolutions, s.outputs,
                       s.statistics);
        break;
      case CONVOLVE_BACKWARD:
        convolve_backward<T, V>(s.shape, s.values, s.table, s.count, convolutions, s.outputs,
                                s.d_values, s.reads, s.statistics, s.stride, s.edges,
                                lists.pool_gradients.data() + s.first_edge, s.before);
        break;
      case POOL_STATISTICS:
        pool_statistics<T, V>(s.shape, s.values, s.stride, s.statistics);
        break;
      case MIX:
        mix<T, V>(s.shape, s.count, lists.mix_terms.data() + s.first, s.outputs);
        break;
      case REDUCE:
        reduce<T, V>(s.shape, s.count, lists.reduce_terms.data() + s.first, s.statistics);
        break;
      case NORMALISE:
        for (int i = 0; i < s.count; i++)
          normalise<T>(s.shape, call.momentum, lists.norms[s.first + i]);
        break;
      case NORMALISE_BACKWARD:
        for (int i = 0; i < s.count; i++)
          normalise_backward<T>(s.shape, weights, static_cast<T*>(call.d_weights),
                                lists.norm_gradients[s.first + i]);
        break;
      case READ_IN:
        read_in<T>(s.shape, s.strides, static_cast<const T*>(s.values),
                   static_cast<T*>(s.outputs));
        break;
      case WRITE_OUT:
        write_out<T>(s.shape, static_cast<const T*>(s.values), static_cast<T*>(s.outputs));
        break;
      case CLEAR:
        std::memset(s.outputs, 0, s.strides[0]);
        break;
    }
  }
}

}  // namespace hwnas
