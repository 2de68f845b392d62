// Runs conv_pool.cc alone, on layers of all kinds, with one thread and with four, which must agree.
// Arrays end where their memory ends, so that a sanitizer sees every access beyond them.

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "conv_pool.h"

using conv_pool::Layer;

static void InTurn(int64_t count, const std::function<void(int64_t)>& task) {
  for (int64_t i = 0; i < count; ++i) task(i);
}

static void OnFourThreads(int64_t count, const std::function<void(int64_t)>& task) {
  std::atomic<int64_t> begun{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread)
    threads.emplace_back([&] {
      for (int64_t i; (i = begun.fetch_add(1)) < count;) task(i);
    });
  for (auto& thread : threads) thread.join();
}

// An array on the heap without the spare capacity of a vector.
template <class T>
struct Array {
  explicit Array(int64_t size) : size(size), data(new T[size]) {}
  int64_t size;
  std::unique_ptr<T[]> data;
};

static uint32_t state = 1;

static Array<float> Random(int64_t size) {
  Array<float> array(size);
  for (int64_t i = 0; i < size; ++i) {
    state = state * 1664525 + 1013904223;
    array.data[i] = static_cast<int32_t>(state) / 2147483648.0f;
  }
  return array;
}

struct Sum {
  template <class T>
  void Add(const Array<T>& array) {
    for (int64_t i = 0; i < array.size * int64_t{sizeof(T)}; ++i)
      value = (value ^ reinterpret_cast<const uint8_t*>(array.data.get())[i]) * 1099511628211u;
  }
  uint64_t value = 14695981039346656037u;
};

// Hashes all results of a layer.
static uint64_t Hash(const Layer& layer, int64_t networks, const conv_pool::Parallel& parallel) {
  state = 1;
  const auto images = Random(networks * layer.images_size());
  const auto kernels = Random(networks * layer.kernel_size());
  const auto biases = Random(networks * layer.filters);
  const auto grads = Random(networks * layer.outputs_size());
  Array<float> outputs(grads.size), alone(grads.size);
  Array<float> kernel_grads(kernels.size), bias_grads(biases.size), image_grads(images.size);
  Array<uint8_t> winners(grads.size);
  conv_pool::Forward(layer, networks, images.data.get(), kernels.data.get(), biases.data.get(),
                     alone.data.get(), nullptr, parallel);
  conv_pool::Forward(layer, networks, images.data.get(), kernels.data.get(), biases.data.get(),
                     outputs.data.get(), winners.data.get(), parallel);
  conv_pool::WeightsGradient(layer, networks, images.data.get(), winners.data.get(),
                             grads.data.get(), kernel_grads.data.get(), bias_grads.data.get(),
                             parallel);
  conv_pool::ImagesGradient(layer, networks, kernels.data.get(), winners.data.get(),
                            grads.data.get(), image_grads.data.get(), parallel);
  Sum sum;
  sum.Add(outputs);
  sum.Add(winners);
  sum.Add(kernel_grads);
  sum.Add(bias_grads);
  sum.Add(image_grads);
  return std::memcmp(alone.data.get(), outputs.data.get(), 4 * outputs.size) ? 0 : sum.value;
}

int main() {
  int layers = 0;
  for (int64_t kernel : {3, 5})
    for (int64_t pool : {1, 2, 3})
      for (int64_t stride : {1, 2, 3})
        for (bool mean : {false, true})
          for (int64_t left_over : {0, 1, 4})
            for (int64_t batch : {16, 144}) {
              Layer layer;
              // Few and many have different code for the gradients of weights.
              layer.channels = layers % 50 ? 1 + layers % 7 : 40;
              layer.filters = 1 + layers % 9;
              layer.batch = batch;
              layer.kernel = kernel;
              layer.stride = stride;
              layer.pool = pool;
              layer.mean = mean;
              layer.rectify = layers % 2;
              layer.height = kernel + stride * (pool - 1) + left_over;
              layer.width = layer.height + 1 + layers % 3;
              layer.out_height = ((layer.height - kernel) / stride + 1) / pool;
              layer.out_width = ((layer.width - kernel) / stride + 1) / pool;
              const int64_t networks = 1 + layers % 2;
              if (!conv_pool::Fits(layer)) return std::puts("does not fit"), 1;
              const uint64_t hash = Hash(layer, networks, InTurn);
              if (!hash || hash != Hash(layer, networks, OnFourThreads))
                return std::puts("other bits"), 1;
              ++layers;
            }
  std::printf("%d layers\n", layers);
}
