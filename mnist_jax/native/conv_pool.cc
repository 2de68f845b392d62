// A convolution, pooling, a bias and a rectifier in one pass, and the gradients.
//
// Separate operations would write 11 MB to memory for the first layer of the reference network, of
// which pooling keeps a quarter. A matrix product would copy each pixel once per weight. Here a
// pooling window's outputs never leave the registers.
//
// Vectors run along the batch, the last axis of every array: one instruction serves kLanes images.
// So vectors are full for all sizes, and no lane needs its neighbour. `Floats` is a vector type of
// GCC and Clang, which turn `a * b + c` into the widest instructions: AVX-512, AVX2 or NEON.
//
// A task is a group of images, or some rows of one. It first copies what it reads often, to make
// neighbouring pixels of kLanes images adjacent: [G / kLanes, C, H, W, kLanes].
//
// Shapes and kLanes fix the order of every sum, so the bits do not depend on the threads.
//
// Shapes, all row-major: images [C, H, W, B], kernel [K, K, C, F], bias [F]; outputs, winners and
// their gradients [F, H', W', B]. B is a multiple of kLine.

#include "conv_pool.h"

#include <algorithm>
#include <cstring>
#include <memory>
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
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif
constexpr int64_t kLine = 64 / sizeof(float);  // numbers in a cache line

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));  // also the masks: -1 is true
typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

// memcpy allows unaligned addresses, and is one instruction.
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

// By way of 16 bits: GCC would convert lane by lane.
inline Bytes Narrow(Ints ints) {
  return __builtin_convertvector(__builtin_convertvector(ints, Shorts), Bytes);
}

inline Ints Winner(const uint8_t* winners) {
  return __builtin_convertvector(Load<Bytes>(winners), Ints);
}

inline float Sum(Floats vector) {
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += vector[lane];
  return sum;
}

inline int64_t Ceil(int64_t number, int64_t divisor) { return (number + divisor - 1) / divisor; }

// The buffers of a task.
enum Purpose { kGathered, kUnpooled, kTotals };

// Returns this thread's uninitialised memory, aligned to a cache line and reused by its tasks: new
// pages would cost as much as the work.
template <Purpose purpose>
float* Scratch(int64_t size) {
  static thread_local std::vector<float> memory;
  if (int64_t(memory.size()) < size + kLine) memory.resize(size + kLine);
  const auto begin = reinterpret_cast<uintptr_t>(memory.data()) / sizeof(float);
  return memory.data() + (kLine - begin % kLine) % kLine;
}

// Copies some rows of a group's images: [group / kLanes, C, rows, W, kLanes].
float* Gather(const Layer& layer, const float* images, int64_t first, int64_t rows, int64_t group) {
  const int64_t numbers = rows * layer.width, size = layer.channels * numbers * kLanes;
  float* gathered = Scratch<kGathered>(group / kLanes * size);
  for (int64_t c = 0; c < layer.channels; ++c)
    for (int64_t i = 0; i < numbers; ++i) {
      const float* from = images + layer.pixel(c, first, 0) + i * layer.batch;
      float* to = gathered + (c * numbers + i) * kLanes;
      for (int64_t b = 0; b < group; b += kLanes)
        Store(to + b / kLanes * size, Load<Floats>(from + b));
    }
  return gathered;
}

// The filters and places computed at once, for pooling windows of P x P. Their independent sums
// hide the four cycles of an addition; more would not fit the registers.
template <int P>
constexpr int kPlaces = P == 1 ? 4 : P * P;
template <int P>
constexpr int kFilters = kRegisters / (P == 3 ? 16 : 8);

// Returns a kernel `weight(f, c, i, j)` in the order of `Convolve`, [F / N, C, K, K, N],
// zero-padded.
template <int N, class Weight>
std::vector<float> Packed(int64_t filters, int64_t channels, int64_t size, Weight weight) {
  std::vector<float> packed;
  packed.reserve(Ceil(filters, N) * N * channels * size * size);
  for (int64_t first = 0; first < filters; first += N)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < size; ++i)
        for (int64_t j = 0; j < size; ++j)
          for (int64_t f = first; f < first + N; ++f)
            packed.push_back(f < filters ? weight(f, c, i, j) : 0);
  return packed;
}

// Images [channels, height, width, kLanes], and the rows and columns of a kernel to apply.
struct Planes {
  int64_t channels, height, width, kernel;
  int64_t row_begin = 0, row_end = kernel, column_begin = 0, column_end = kernel;

  int64_t size() const { return channels * height * width * kLanes; }
};

// Computes the convolutions of N filters at Q places, offsets from `window`.
template <int N, int Q>
inline void Convolve(const Planes& planes, const float* window, const int64_t (&places)[Q],
                     const float* weights, Floats (&sums)[N][Q]) {
  for (auto& filter : sums) std::fill_n(filter, Q, Floats{});
  for (int64_t c = 0; c < planes.channels; ++c)
    for (int64_t i = planes.row_begin; i < planes.row_end; ++i)
      for (int64_t j = planes.column_begin; j < planes.column_end; ++j) {
        const float* pixel = window + ((c * planes.height + i) * planes.width + j) * kLanes;
        const float* weight = weights + ((c * planes.kernel + i) * planes.kernel + j) * N;
        Floats image[Q];
#pragma GCC unroll 9
        for (int q = 0; q < Q; ++q) image[q] = Load<Floats>(pixel + places[q]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
#pragma GCC unroll 9
          for (int q = 0; q < Q; ++q) sums[n][q] += weight[n] * image[q];
      }
}

// Pools the outputs of a window, adds the bias and rectifies. `winner` becomes the index of the
// largest output, or kNone if it is rectified to 0.
template <int P>
inline Floats Pool(const Layer& layer, const Floats* outputs, float bias, Ints* winner) {
  Floats best = outputs[0];
  *winner = Ints{};
  for (int q = 1; q < P * P; ++q) {
    if (layer.mean) {
      best += outputs[q];
      continue;
    }
    // The first of equal maxima wins, and the first NaN wins over all.
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

// Computes `rows` rows of a group's outputs.
template <int P, int K>
void ForwardGroup(const Layer& layer, const float* images, const float* packed, const float* bias,
                  float* outputs, uint8_t* winners, int64_t first_row, int64_t rows,
                  int64_t group) {
  constexpr int N = kFilters<P>, Q = kPlaces<P>;
  const int64_t height = (rows * P - 1) * layer.stride + K;
  const float* gathered = Gather(layer, images, first_row * P * layer.stride, height, group);
  const Planes planes{layer.channels, height, layer.width, K};
  const int64_t step = P == 1 ? Q : 1;  // without pooling, Q outputs at once
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < layer.out_width; x += step) {
      const int64_t count = std::min(step, layer.out_width - x);
      int64_t places[Q];
      for (int64_t q = 0; q < Q; ++q)
        places[q] = layer.stride * kLanes *
                    (P == 1 ? std::min(q, count - 1) : q / P * layer.width + q % P);
      const float* window = gathered + layer.stride * P * (y * layer.width + x) * kLanes;
      for (int64_t b = 0; b < group; b += kLanes, window += planes.size())
        for (int64_t f = 0; f < layer.filters; f += N) {
          Floats sums[N][Q];
          Convolve(planes, window, places, packed + f * layer.channels * K * K, sums);
          for (int n = 0; n < N && f + n < layer.filters; ++n)
            for (int64_t q = 0; q < count; ++q) {
              const int64_t at = layer.output(f + n, first_row + y, x + q) + b;
              Ints winner;
              Store(outputs + at, Pool<P>(layer, sums[n] + q, bias[f + n], &winner));
              if (winners) Store(winners + at, Narrow(winner));
            }
        }
    }
}

// Undoes pooling and rectifier of one output: stores the gradient at each place of the window,
// `row` and `column` apart.
template <int P>
inline void Unpool(const Layer& layer, Floats grad, Ints winner, float* to, int64_t row,
                   int64_t column) {
  if (layer.mean) grad *= 1.0f / (P * P);
  for (int q = 0; q < P * P; ++q) {
    const Ints passes = layer.mean ? winner != kNone : winner == q;
    Store(to + q / P * row + q % P * column, passes ? grad : Floats{});
  }
}

// With few channels, reading costs more than computing: `FewWeights` reads each output's gradient
// once, and masks it in a register. With many, `WeightsGroup` first unpools it to a buffer.
constexpr int64_t kFewChannels = 4;
constexpr int64_t kFewFilters = 4;  // computed together while the images stay in the cache

// Adds the terms of one pooled output, its gradient times the pixel at the winner, to the sums of a
// filter, for R rows of its kernel from row `i0`.
template <int P, int K, int R>
inline void AddWindow(const Layer& layer, const float* window, const float* grads,
                      const uint8_t* winners, int64_t i0, Floats* sums, Floats* bias_sum) {
  const int64_t column = layer.batch, row = layer.width * column;
  Floats sum[R * K];
#pragma GCC unroll 25
  for (int t = 0; t < R * K; ++t) sum[t] = sums[i0 * K + t];
  Floats whole = *bias_sum;
  for (int64_t b = 0; b < layer.batch; b += kLanes) {
    const Floats grad = Load<Floats>(grads + b);
    const Ints winner = Winner(winners + b);
    whole += winner == kNone ? Floats{} : grad;
#pragma GCC unroll 9
    for (int q = 0; q < P * P; ++q) {
      const Ints passes = layer.mean ? winner != kNone : winner == q;
      const Floats passed = passes ? grad : Floats{};
      const float* pixel = window + layer.stride * (q / P * row + q % P * column) + i0 * row + b;
#pragma GCC unroll 25
      for (int t = 0; t < R * K; ++t)
        sum[t] += passed * Load<Floats>(pixel + t / K * row + t % K * column);
    }
  }
#pragma GCC unroll 25
  for (int t = 0; t < R * K; ++t) sums[i0 * K + t] = sum[t];
  if (i0 == 0) *bias_sum = whole;
}

// Computes the gradients of kFewFilters filters and their biases for one channel.
template <int P, int K>
void FewWeights(const Layer& layer, const float* images, const uint8_t* winners, const float* grads,
                float* kernel_grads, float* bias_grads, int64_t channel, int64_t first) {
  constexpr int R = K * K < kRegisters - 4 ? K : 2;  // rows of the kernel in registers
  const float scale = layer.mean ? 1.0f / (P * P) : 1.0f;
  const int64_t last = std::min(first + kFewFilters, layer.filters);
  Floats sums[kFewFilters][K * K] = {}, bias_sums[kFewFilters] = {};
  for (int64_t y = 0; y < layer.out_height; ++y)
    for (int64_t x = 0; x < layer.out_width; ++x) {
      const int64_t step = layer.stride * P;
      const float* window = images + layer.pixel(channel, y * step, x * step);
      for (int64_t f = first; f < last; ++f) {
        const int64_t at = layer.output(f, y, x);
        Floats *sum = sums[f - first], *bias_sum = &bias_sums[f - first];
        for (int64_t i0 = 0; i0 + R <= K; i0 += R)
          AddWindow<P, K, R>(layer, window, grads + at, winners + at, i0, sum, bias_sum);
        if (K % R)
          AddWindow<P, K, 1>(layer, window, grads + at, winners + at, K - 1, sum, bias_sum);
      }
    }
  for (int64_t f = first; f < last; ++f) {
    for (int64_t t = 0; t < K * K; ++t)
      kernel_grads[layer.weight(t / K, t % K, channel, f)] = scale * Sum(sums[f - first][t]);
    if (channel == 0) bias_grads[f] = Sum(bias_sums[f - first]);
  }
}

// The filters whose gradients are computed at once for a row of the kernel.
template <int K>
constexpr int kGradients = kRegisters / (K == 3 ? 5 : 8);

// Computes a group's terms of the gradients of kernel and bias.
template <int P, int K>
void WeightsGroup(const Layer& layer, const float* images, const uint8_t* winners,
                  const float* grads, float* kernel_grads, float* bias_grads, int64_t group) {
  constexpr int N = kGradients<K>, R = 4 / P;  // rows of outputs at once
  const float* gathered = Gather(layer, images, 0, layer.height, group);
  const int64_t plane = layer.height * layer.width * kLanes, row = layer.out_width * P * kLanes;
  const int64_t size = layer.channels * K * N * K * kLanes;
  float* unpooled = Scratch<kUnpooled>(N * R * P * row);
  float* totals = Scratch<kTotals>(size);  // [C, K, N, K, kLanes]
  for (int64_t first = 0; first < layer.filters; first += N) {
    const int64_t filters = std::min<int64_t>(N, layer.filters - first);
    Floats bias_totals[N] = {};
    std::fill_n(totals, size, 0.0f);
    for (int64_t y = 0; y < layer.out_height; y += R)
      for (int64_t b = 0; b < group; b += kLanes) {
        const int64_t rows = std::min<int64_t>(R, layer.out_height - y);
        for (int64_t n = 0; n < filters; ++n)
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t x = 0; x < layer.out_width; ++x) {
              const int64_t at = layer.output(first + n, y + r, x) + b;
              const Floats grad = Load<Floats>(grads + at);
              const Ints winner = Winner(winners + at);
              bias_totals[n] += winner == kNone ? Floats{} : grad;
              Unpool<P>(layer, grad, winner, unpooled + (n * R + r) * P * row + x * P * kLanes, row,
                        kLanes);
            }
        for (int64_t c = 0; c < layer.channels; ++c)
          for (int64_t i = 0; i < K; ++i) {
            float* total = totals + (c * K + i) * N * K * kLanes;
            Floats sums[N][K];
#pragma GCC unroll 25
            for (int t = 0; t < N * K; ++t) sums[t / K][t % K] = Load<Floats>(total + t * kLanes);
            for (int64_t p = 0; p < rows * P; ++p) {
              const int64_t height = (y * P + p) * layer.stride + i;
              const float* pixel = gathered + (b / kLanes * layer.channels + c) * plane +
                                   height * layer.width * kLanes;
              const float* grad = unpooled + p * row;
              for (int64_t x = 0; x < layer.out_width * P; ++x) {
#pragma GCC unroll 8
                for (int j = 0; j < K; ++j) {
                  const Floats image = Load<Floats>(pixel + j * kLanes);
#pragma GCC unroll 8
                  for (int n = 0; n < N; ++n)
                    sums[n][j] += Load<Floats>(grad + n * R * P * row) * image;
                }
                pixel += layer.stride * kLanes;
                grad += kLanes;
              }
            }
#pragma GCC unroll 25
            for (int t = 0; t < N * K; ++t) Store(total + t * kLanes, sums[t / K][t % K]);
          }
      }
    for (int64_t n = 0; n < filters; ++n) {
      for (int64_t c = 0; c < layer.channels; ++c)
        for (int64_t i = 0; i < K; ++i)
          for (int64_t j = 0; j < K; ++j)
            kernel_grads[layer.weight(i, j, c, first + n)] =
                Sum(Load<Floats>(totals + (((c * K + i) * N + n) * K + j) * kLanes));
      bias_grads[first + n] = Sum(bias_totals[n]);
    }
  }
}

// Computes the gradients of a group's images: the kernel rotated by 180 degrees over the outputs'
// gradients, with stride - 1 zeros between and a border around them. Rows and columns of the kernel
// that meet only the border are skipped. (An infinite weight times these zeros is NaN in pixels
// that it does not reach; no NaN is hidden.)
template <int P>
void ImagesGroup(const Layer& layer, const float* packed, const uint8_t* winners,
                 const float* grads, float* image_grads, int64_t group) {
  constexpr int N = kFilters<1>, Q = kPlaces<1>;
  const int64_t border = layer.kernel - 1;
  const int64_t height = layer.height + border, width = layer.width + border;
  const int64_t step = layer.stride * kLanes, size = layer.filters * height * width * kLanes;
  float* unpooled = Scratch<kUnpooled>(group / kLanes * size);
  std::fill_n(unpooled, group / kLanes * size, 0.0f);
  for (int64_t f = 0; f < layer.filters; ++f)
    for (int64_t y = 0; y < layer.out_height; ++y)
      for (int64_t x = 0; x < layer.out_width; ++x)
        for (int64_t b = 0; b < group; b += kLanes) {
          const int64_t at = layer.output(f, y, x) + b;
          const int64_t row = f * height + border + y * P * layer.stride;
          const int64_t column = border + x * P * layer.stride;
          Unpool<P>(layer, Load<Floats>(grads + at), Winner(winners + at),
                    unpooled + b / kLanes * size + (row * width + column) * kLanes, width * step,
                    step);
        }
  const int64_t row_end = border + (layer.out_height * P - 1) * layer.stride + 1;
  const int64_t column_end = border + (layer.out_width * P - 1) * layer.stride + 1;
  for (int64_t y = 0; y < layer.height; ++y)
    for (int64_t x = 0; x < layer.width; x += Q) {
      const int64_t count = std::min<int64_t>(Q, layer.width - x);
      int64_t places[Q];
      for (int64_t q = 0; q < Q; ++q) places[q] = std::min(q, count - 1) * kLanes;
      const Planes planes{layer.filters, height, width, layer.kernel,
                          std::max<int64_t>(0, border - y), std::min(layer.kernel, row_end - y),
                          std::max<int64_t>(0, border - x - count + 1),
                          std::min(layer.kernel, column_end - x)};
      for (int64_t b = 0; b < group; b += kLanes)
        for (int64_t c = 0; c < layer.channels; c += N) {
          Floats sums[N][Q];
          Convolve(planes, unpooled + b / kLanes * size + (y * width + x) * kLanes, places,
                   packed + c * layer.filters * layer.kernel * layer.kernel, sums);
          for (int64_t n = 0; n < N && c + n < layer.channels; ++n)
            for (int64_t q = 0; q < count; ++q)
              Store(image_grads + layer.pixel(c + n, y, x + q) + b, sums[n][q]);
        }
    }
}

// Calls `run(Sizes<P, K>())` for a layer. The compiler unrolls loops of constant lengths, so their
// sums stay in registers.
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

// Returns the size of a group whose tasks copy `numbers` of each image: as fits half of a usual L2
// cache, at most 32, for many threads, and at least kLine, so that threads share no cache line.
int64_t GroupSize(int64_t numbers) {
  int64_t size = 32;
  while (size > kLine && size * numbers * int64_t{sizeof(float)} > 256 * 1024) size /= 2;
  return size;
}

// Calls `run(network, i, j)` as a task for all i < outer and j < inner of each network.
template <class Run>
void ForTasks(int64_t networks, int64_t outer, int64_t inner, const Parallel& parallel, Run run) {
  parallel(networks * outer * inner, [&](int64_t task) {
    run(task / inner / outer, task / inner % outer, task % inner);
  });
}

}  // namespace

bool Fits(const Layer& layer) {
  return layer.batch % kLine == 0 && layer.pool >= 1 && layer.pool <= 3 &&
         (layer.kernel == 3 || layer.kernel == 5);
}

void Forward(const Layer& layer, int64_t networks, const float* images, const float* kernels,
             const float* biases, float* outputs, uint8_t* winners, const Parallel& parallel) {
  WithSizes(layer, [&](auto sizes) {
    constexpr int P = decltype(sizes)::P, K = decltype(sizes)::K;
    std::vector<std::vector<float>> packed(networks);
    for (int64_t n = 0; n < networks; ++n) {
      const float* kernel = kernels + n * layer.kernel_size();
      packed[n] = Packed<kFilters<P>>(
          layer.filters, layer.channels, K, [&](int64_t f, int64_t c, int64_t i, int64_t j) {
            return kernel[layer.weight(i, j, c, f)];
          });
    }
    constexpr int64_t rows = P == 1 ? 4 : 1;
    const int64_t height = (rows * P - 1) * layer.stride + K;
    const int64_t size = GroupSize(layer.channels * height * layer.width);
    ForTasks(networks, Ceil(layer.batch, size), Ceil(layer.out_height, rows), parallel,
             [&](int64_t n, int64_t g, int64_t part) {
               const int64_t b = g * size, at = n * layer.outputs_size() + b, y = part * rows;
               ForwardGroup<P, K>(layer, images + n * layer.images_size() + b, packed[n].data(),
                                  biases + n * layer.filters, outputs + at,
                                  winners ? winners + at : nullptr, y,
                                  std::min(rows, layer.out_height - y),
                                  std::min(size, layer.batch - b));
             });
  });
}

void WeightsGradient(const Layer& layer, int64_t networks, const float* images,
                     const uint8_t* winners, const float* grads, float* kernel_grads,
                     float* bias_grads, const Parallel& parallel) {
  const bool few = layer.channels <= kFewChannels;
  // With many channels each group has its own sums, added in order.
  const int64_t size = GroupSize(layer.channels * layer.height * layer.width);
  const int64_t groups = Ceil(layer.batch, size), length = layer.kernel_size() + layer.filters;
  const std::unique_ptr<float[]> sums(new float[few ? 0 : networks * groups * length]);
  WithSizes(layer, [&](auto sizes) {
    constexpr int P = decltype(sizes)::P, K = decltype(sizes)::K;
    if (few)
      return ForTasks(networks, layer.channels, Ceil(layer.filters, kFewFilters), parallel,
                      [&](int64_t n, int64_t channel, int64_t block) {
                        const int64_t at = n * layer.outputs_size();
                        FewWeights<P, K>(layer, images + n * layer.images_size(), winners + at,
                                         grads + at, kernel_grads + n * layer.kernel_size(),
                                         bias_grads + n * layer.filters, channel,
                                         block * kFewFilters);
                      });
    ForTasks(networks, groups, 1, parallel, [&](int64_t n, int64_t g, int64_t) {
      const int64_t b = g * size, at = n * layer.outputs_size() + b;
      float* sum = sums.get() + (n * groups + g) * length;
      WeightsGroup<P, K>(layer, images + n * layer.images_size() + b, winners + at, grads + at, sum,
                         sum + layer.kernel_size(), std::min(size, layer.batch - b));
    });
  });
  if (few) return;
  constexpr int64_t kBlock = 4096;  // numbers of a task
  ForTasks(networks, Ceil(length, kBlock), 1, parallel, [&](int64_t n, int64_t block, int64_t) {
    for (int64_t i = block * kBlock; i < std::min((block + 1) * kBlock, length); ++i) {
      float sum = 0;
      for (int64_t g = 0; g < groups; ++g) sum += sums[(n * groups + g) * length + i];
      const int64_t weights = layer.kernel_size(), f = i - weights;
      (f < 0 ? kernel_grads[n * weights + i] : bias_grads[n * layer.filters + f]) = sum;
    }
  });
}

void ImagesGradient(const Layer& layer, int64_t networks, const float* kernels,
                    const uint8_t* winners, const float* grads, float* image_grads,
                    const Parallel& parallel) {
  WithSizes(layer, [&](auto sizes) {
    constexpr int P = decltype(sizes)::P, last = decltype(sizes)::K - 1;
    std::vector<std::vector<float>> packed(networks);
    for (int64_t n = 0; n < networks; ++n) {
      const float* kernel = kernels + n * layer.kernel_size();
      packed[n] = Packed<kFilters<1>>(
          layer.channels, layer.filters, last + 1,
          [&](int64_t c, int64_t f, int64_t i, int64_t j) {
            return kernel[layer.weight(last - i, last - j, c, f)];
          });
    }
    const int64_t size = GroupSize(layer.filters * (layer.height + last) * (layer.width + last));
    ForTasks(networks, Ceil(layer.batch, size), 1, parallel,
             [&](int64_t n, int64_t g, int64_t) {
               const int64_t b = g * size, at = n * layer.outputs_size() + b;
               ImagesGroup<P>(layer, packed[n].data(), winners + at, grads + at,
                              image_grads + n * layer.images_size() + b,
                              std::min(size, layer.batch - b));
             });
  });
}

}  // namespace conv_pool
