// A convolution, its bias, the rectifier and the pooling behind it, in one pass; and its gradient.
//
// Why by hand. As separate operations each would write its whole result to memory, for the next one
// to read it back: 11 MB for the first layer of the reference network, of which pooling keeps a
// quarter. Here the outputs of one pooling window never leave the processor's registers.
//
// The batch is the last axis of every array, and vectors run along it: one instruction does the
// same for kLanes images. So nothing below depends on the size of an image or of a window, and no
// lane ever needs its neighbour. `Floats` is a type of the compiler (GCC and Clang), which turns
// `a * b + c` into the widest instructions that the machine has: AVX-512, AVX2 or NEON.
//
// Every sum has one order, fixed by the shapes alone. Threads share whole outputs among them, never
// the terms of one sum: the bits do not depend on how many threads there are.
//
// Shapes, all row-major: images [C, H, W, B], kernel [K, K, C, F], bias [F]; outputs, winners and
// their gradients [F, H', W', B]. B is a multiple of kLanes.

#include "conv_pool.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace conv_pool {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr bool kManyRegisters = kLanes == 16;  // AVX-512 has 32 of them, AVX2 has 16

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));  // also the masks: -1 is true
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

// Through memcpy, since an address need not be a multiple of the vector's size: one instruction.
template <class Vector>
inline Vector Load(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

template <class Vector>
inline void Store(void* to, Vector vector) {
  std::memcpy(to, &vector, sizeof vector);
}

// Filters that are computed at once: each loaded pixel then serves them all, and there are enough
// independent sums to hide that one addition takes four cycles. More would not fit the registers.
template <int P>
constexpr int kFilters = P == 1 ? 8 : (kManyRegisters ? 2 : 1) * (P == 2 ? 2 : 1);

constexpr int64_t kTile = 128;  // images that go together over a row: their windows fit the cache
constexpr int kGradientFilters = 4;  // that go together over the images, which stay in the cache

// Distances in an array of images, in floats.
struct Steps {
  explicit Steps(const Layer& layer)
      : column(layer.batch), row(layer.width * column), channel(layer.height * row) {}
  int64_t column, row, channel;
};

// Where the window of pooled output (y, x) begins, in the plane of a channel.
inline int64_t WindowBegin(const Layer& layer, const Steps& steps, int64_t y, int64_t x) {
  return layer.stride * layer.pool * (y * steps.row + x * steps.column);
}

// Returns the kernel [K, K, C, F] in the order in which it is read: [F / kFilters, C, K, K,
// kFilters], padded with zeros.
template <int P>
std::vector<float> Packed(const Layer& layer, const float* kernel) {
  const int64_t taps = layer.kernel * layer.kernel;
  const int64_t blocks = (layer.filters + kFilters<P> - 1) / kFilters<P>;
  std::vector<float> packed(blocks * layer.channels * taps * kFilters<P>);
  for (int64_t f = 0; f < layer.filters; ++f)
    for (int64_t c = 0; c < layer.channels; ++c)
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t block = (f / kFilters<P> * layer.channels + c) * taps + tap;
        packed[block * kFilters<P> + f % kFilters<P>] =
            kernel[(tap * layer.channels + c) * layer.filters + f];
      }
  return packed;
}

// Pools the outputs of a window, then adds the bias and rectifies; a maximum and a bias may change
// places. `winner` becomes the number of the largest output, or kNone where the rectifier is shut.
template <int P>
inline Floats Pool(const Layer& layer, const Floats (&outputs)[P * P], float bias, Ints* winner) {
  Floats best = outputs[0];
  *winner = Ints{};
  for (int q = 1; q < P * P; ++q) {
    if (layer.mean) {
      best += outputs[q];
      continue;
    }
    // The first of equal maxima wins. NaN counts as the largest; the first NaN wins.
    const Ints wins = ~(outputs[q] <= best) & (best == best);
    best = wins ? outputs[q] : best;
    *winner = wins ? Ints{} + q : *winner;
  }
  if (layer.mean) best *= 1.0f / (P * P);
  best += bias;
  if (layer.rectify) {
    best = best <= 0 ? Floats{} : best;
    *winner = best > 0 ? *winner : Ints{} + kNone;
  }
  return best;
}

// One row of pooled outputs, of all filters and of the images from `begin` to `end`.
template <int P, int K>
void ForwardRow(const Layer& layer, const float* images, const float* packed, const float* bias,
                float* outputs, uint8_t* winners, int64_t y, int64_t begin, int64_t end) {
  constexpr int N = kFilters<P>;
  const Steps steps(layer);
  const int64_t down = layer.stride * steps.row, right = layer.stride * steps.column;
  int32_t winner_row[N][kTile];
  for (int64_t x = 0; x < layer.out_width; ++x) {
    const float* window = images + WindowBegin(layer, steps, y, x);
    for (int64_t first = 0; first < layer.filters; first += N) {
      const int filters = std::min<int64_t>(N, layer.filters - first);
      const float* weights = packed + first * layer.channels * K * K;
      const int64_t size = layer.out_height * layer.out_width * layer.batch;
      const int64_t at = first * size + (y * layer.out_width + x) * layer.batch;
      for (int64_t b = begin; b < end; b += kLanes) {
        Floats sums[N][P * P] = {};
        const float* weight = weights;
        for (int64_t c = 0; c < layer.channels; ++c)
          for (int i = 0; i < K; ++i)
            for (int j = 0; j < K; ++j, weight += N) {
              const float* pixel = window + c * steps.channel + i * steps.row + j * steps.column + b;
#pragma GCC unroll 9
              for (int q = 0; q < P * P; ++q) {
                const Floats image = Load<Floats>(pixel + q / P * down + q % P * right);
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n) sums[n][q] += weight[n] * image;
              }
            }
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
          if (n >= filters) break;
          Ints winner;
          Store(outputs + at + n * size + b, Pool<P>(layer, sums[n], bias[first + n], &winner));
          Store(&winner_row[n][b - begin], winner);
        }
      }
      if (!winners) continue;
      for (int n = 0; n < filters; ++n)
        for (int64_t b = begin; b < end; ++b) winners[at + n * size + b] = winner_row[n][b - begin];
    }
  }
}

// Adds the terms of one pooled output to the sums of a filter, for R rows of its kernel from row
// `i0` on. A term is the gradient of the output times the pixel that the winner saw.
template <int P, int K, int R>
inline void AddWindow(const Layer& layer, const float* window, const float* grads,
                      const uint8_t* winners, int i0, Floats* sums, Floats* bias_sum) {
  const Steps steps(layer);
  Floats sum[R * K];
#pragma GCC unroll 25
  for (int t = 0; t < R * K; ++t) sum[t] = sums[i0 * K + t];
  Floats whole = *bias_sum;
  for (int64_t b = 0; b < layer.batch; b += kLanes) {
    const Floats grad = Load<Floats>(grads + b);
    const Ints winner = __builtin_convertvector(Load<Bytes>(winners + b), Ints);
    whole += winner == kNone ? Floats{} : grad;
#pragma GCC unroll 9
    for (int q = 0; q < P * P; ++q) {
      const Ints passes = layer.mean ? winner != kNone : winner == q;
      const Floats passed = passes ? grad : Floats{};
      const float* pixel =
          window + layer.stride * (q / P * steps.row + q % P * steps.column) + i0 * steps.row + b;
#pragma GCC unroll 25
      for (int t = 0; t < R * K; ++t)
        sum[t] += passed * Load<Floats>(pixel + t / K * steps.row + t % K * steps.column);
    }
  }
#pragma GCC unroll 25
  for (int t = 0; t < R * K; ++t) sums[i0 * K + t] = sum[t];
  if (i0 == 0) *bias_sum = whole;
}

inline float Sum(Floats vector) {
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += vector[lane];
  return sum;
}

// The gradients of kGradientFilters filters and their biases, of one channel.
template <int P, int K>
void Gradients(const Layer& layer, const float* images, const uint8_t* winners, const float* grads,
               float* kernel_grads, float* bias_grads, int64_t first, int64_t channel) {
  constexpr int R = K * K <= 9 || kManyRegisters ? K : 2;  // rows of the kernel in registers
  const Steps steps(layer);
  const float scale = layer.mean ? 1.0f / (P * P) : 1.0f;
  const int64_t last = std::min(first + kGradientFilters, layer.filters);
  Floats sums[kGradientFilters][K * K] = {}, bias_sums[kGradientFilters] = {};
  for (int64_t y = 0; y < layer.out_height; ++y)
    for (int64_t x = 0; x < layer.out_width; ++x) {
      const float* window = images + channel * steps.channel + WindowBegin(layer, steps, y, x);
      for (int64_t f = first; f < last; ++f) {
        const int64_t at = ((f * layer.out_height + y) * layer.out_width + x) * layer.batch;
        Floats *sum = sums[f - first], *bias_sum = &bias_sums[f - first];
        for (int i0 = 0; i0 + R <= K; i0 += R)
          AddWindow<P, K, R>(layer, window, grads + at, winners + at, i0, sum, bias_sum);
        if (K % R) AddWindow<P, K, 1>(layer, window, grads + at, winners + at, K - 1, sum, bias_sum);
      }
    }
  for (int64_t f = first; f < last; ++f) {
    for (int t = 0; t < K * K; ++t)
      kernel_grads[(t * layer.channels + channel) * layer.filters + f] =
          scale * Sum(sums[f - first][t]);
    if (channel == 0) bias_grads[f] = Sum(bias_sums[f - first]);
  }
}

// Calls `run(Sizes<P, K>())` for the pooling and the kernel of a layer. A loop whose length is known
// to the compiler is unrolled, and its sums stay in registers.
template <int P_, int K_>
struct Sizes {
  static constexpr int P = P_, K = K_;
};

template <class Run>
void WithSizes(const Layer& layer, Run run) {
  switch (10 * layer.pool + layer.kernel) {
    case 13: return run(Sizes<1, 3>());
    case 15: return run(Sizes<1, 5>());
    case 23: return run(Sizes<2, 3>());
    case 25: return run(Sizes<2, 5>());
    case 33: return run(Sizes<3, 3>());
    case 35: return run(Sizes<3, 5>());
  }
}

}  // namespace

bool Fits(const Layer& layer) {
  return layer.batch % kLanes == 0 && layer.pool >= 1 && layer.pool <= 3 &&
         (layer.kernel == 3 || layer.kernel == 5);
}

void Forward(const Layer& layer, int64_t networks, const float* images, const float* kernels,
             const float* biases, float* outputs, uint8_t* winners, const Parallel& parallel) {
  WithSizes(layer, [&](auto sizes) {
    constexpr int P = decltype(sizes)::P, K = decltype(sizes)::K;
    std::vector<std::vector<float>> packed(networks);
    for (int64_t n = 0; n < networks; ++n)
      packed[n] = Packed<P>(layer, kernels + n * layer.kernel_size());
    const int64_t tiles = (layer.batch + kTile - 1) / kTile, tasks = layer.out_height * tiles;
    parallel(networks * tasks, [&](int64_t task) {
      const int64_t n = task / tasks, begin = task % tiles * kTile;
      ForwardRow<P, K>(layer, images + n * layer.images_size(), packed[n].data(),
                       biases + n * layer.filters, outputs + n * layer.outputs_size(),
                       winners ? winners + n * layer.outputs_size() : nullptr,
                       task % tasks / tiles, begin, std::min(begin + kTile, layer.batch));
    });
  });
}

void Gradient(const Layer& layer, int64_t networks, const float* images, const uint8_t* winners,
              const float* grads, float* kernel_grads, float* bias_grads, const Parallel& parallel) {
  const int64_t blocks = (layer.filters + kGradientFilters - 1) / kGradientFilters;
  const int64_t tasks = blocks * layer.channels;
  WithSizes(layer, [&](auto sizes) {
    constexpr int P = decltype(sizes)::P, K = decltype(sizes)::K;
    parallel(networks * tasks, [&](int64_t task) {
      const int64_t n = task / tasks;
      Gradients<P, K>(layer, images + n * layer.images_size(), winners + n * layer.outputs_size(),
                      grads + n * layer.outputs_size(), kernel_grads + n * layer.kernel_size(),
                      bias_grads + n * layer.filters, task % tasks / layer.channels * kGradientFilters,
                      task % layer.channels);
    });
  });
}

}  // namespace conv_pool
