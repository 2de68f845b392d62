// The layers that conv_pool.cc computes.

#pragma once

#include <cstdint>
#include <functional>

namespace conv_pool {

constexpr uint8_t kNone = 255;  // the winner of a rectified output

struct Layer {
  int64_t channels, height, width, batch;  // of the images, with padding
  int64_t kernel, filters;                 // a kernel is square
  int64_t stride, pool;
  bool mean, rectify;
  int64_t out_height, out_width;

  int64_t images_size() const { return channels * height * width * batch; }
  int64_t kernel_size() const { return kernel * kernel * channels * filters; }
  int64_t outputs_size() const { return filters * out_height * out_width * batch; }

  // Offsets, in the first image.
  int64_t weight(int64_t i, int64_t j, int64_t c, int64_t f) const {
    return ((i * kernel + j) * channels + c) * filters + f;
  }
  int64_t pixel(int64_t c, int64_t y, int64_t x) const {
    return ((c * height + y) * width + x) * batch;
  }
  int64_t output(int64_t f, int64_t y, int64_t x) const {
    return ((f * out_height + y) * out_width + x) * batch;
  }
};

// Calls a task with each number below the first argument, in parallel, and waits.
using Parallel = std::function<void(int64_t, const std::function<void(int64_t)>&)>;

bool Fits(const Layer& layer);

// Each computes `networks` layers of equal sizes with contiguous arrays. Only gradients need
// winners, so those of `Forward` may be nullptr.
void Forward(const Layer& layer, int64_t networks, const float* images, const float* kernels,
             const float* biases, float* outputs, uint8_t* winners, const Parallel& parallel);

void WeightsGradient(const Layer& layer, int64_t networks, const float* images,
                     const uint8_t* winners, const float* grads, float* kernel_grads,
                     float* bias_grads, const Parallel& parallel);

void ImagesGradient(const Layer& layer, int64_t networks, const float* kernels,
                    const uint8_t* winners, const float* grads, float* image_grads,
                    const Parallel& parallel);

}  // namespace conv_pool
