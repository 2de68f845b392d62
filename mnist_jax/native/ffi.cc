// XLA's calls of conv_pool.cc, on XLA's threads.
//
// https://docs.jax.dev/en/latest/ffi.html

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <utility>

#include "conv_pool.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// Shares tasks among XLA's threads and this one. It waits for tasks that have begun, never for a
// free thread, because the others may be waiting for a thread, too.
static conv_pool::Parallel On(ffi::ThreadPool& threads) {
  return [&threads](int64_t count, const std::function<void(int64_t)>& task) {
    struct Shared {
      std::atomic<int64_t> begun{0}, done{0};
    };
    // A late helper finds no task left to begin, so it never touches `task`, which is gone by then.
    // `shared` lives until the last helper ends.
    auto shared = std::make_shared<Shared>();
    auto work = [shared, count, &task] {
      for (int64_t i; (i = shared->begun.fetch_add(1)) < count; shared->done.fetch_add(1)) task(i);
    };
    const int64_t helpers = std::min<int64_t>(threads.num_threads(), count) - 1;
    for (int64_t helper = 0; helper < helpers; ++helper) threads.Schedule([work] { work(); });
    work();
    while (shared->done.load() < count) std::this_thread::yield();
  };
}

// Returns the sizes of a layer from the shapes of its arrays, and the number of networks, which the
// arrays' leading axes count (`jax.vmap` adds them).
template <class Images, class Kernel, class Outputs>
static std::pair<conv_pool::Layer, int64_t> LayerOf(Images images, Kernel kernel, Outputs outputs,
                                                  int64_t stride, int64_t pool_size, bool mean,
                                                  bool rectify) {
  const size_t axes = images.size() - 4;
  conv_pool::Layer layer;
  layer.channels = images[axes];
  layer.height = images[axes + 1];
  layer.width = images[axes + 2];
  layer.batch = images[axes + 3];
  layer.kernel = kernel[axes];
  layer.filters = kernel[axes + 3];
  layer.out_height = outputs[axes + 1];
  layer.out_width = outputs[axes + 2];
  layer.stride = stride;
  layer.pool = pool_size;
  layer.mean = mean;
  layer.rectify = rectify;
  const auto begin = images.begin();
  return {layer, std::accumulate(begin, begin + axes, int64_t{1}, std::multiplies<>())};
}

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

static ffi::Error RunForward(ffi::ThreadPool threads, int64_t stride, int64_t pool_size, bool mean,
                             bool rectify, Array images, Array kernel, Array bias, Result outputs,
                             uint8_t* winners) {
  const auto [layer, networks] = LayerOf(images.dimensions(), kernel.dimensions(),
                                       outputs->dimensions(), stride, pool_size, mean, rectify);
  if (!conv_pool::Fits(layer) || int64_t(bias.element_count()) != networks * layer.filters ||
      int64_t(kernel.element_count()) != networks * layer.kernel_size())
    return ffi::Error::InvalidArgument("no kernel for these sizes");
  conv_pool::Forward(layer, networks, images.typed_data(), kernel.typed_data(), bias.typed_data(),
                     outputs->typed_data(), winners, On(threads));
  return ffi::Error::Success();
}

static ffi::Error Infer(ffi::ThreadPool threads, int64_t stride, int64_t pool_size, bool mean,
                        bool rectify, Array images, Array kernel, Array bias, Result outputs) {
  return RunForward(threads, stride, pool_size, mean, rectify, images, kernel, bias, outputs,
                    nullptr);
}

static ffi::Error Forward(ffi::ThreadPool threads, int64_t stride, int64_t pool_size, bool mean,
                          bool rectify, Array images, Array kernel, Array bias, Result outputs,
                          ffi::ResultBuffer<ffi::U8> winners) {
  return RunForward(threads, stride, pool_size, mean, rectify, images, kernel, bias, outputs,
                    winners->typed_data());
}

using Winners = ffi::Buffer<ffi::U8>;

static ffi::Error WeightsGradient(ffi::ThreadPool threads, int64_t stride, int64_t pool_size,
                                  bool mean, bool rectify, Array images, Winners winners,
                                  Array grads, Result kernel_grads, Result bias_grads) {
  const auto [layer, networks] = LayerOf(images.dimensions(), kernel_grads->dimensions(),
                                       grads.dimensions(), stride, pool_size, mean, rectify);
  if (!conv_pool::Fits(layer)) return ffi::Error::InvalidArgument("no kernel for these sizes");
  conv_pool::WeightsGradient(layer, networks, images.typed_data(), winners.typed_data(),
                             grads.typed_data(), kernel_grads->typed_data(),
                             bias_grads->typed_data(), On(threads));
  return ffi::Error::Success();
}

static ffi::Error ImagesGradient(ffi::ThreadPool threads, int64_t stride, int64_t pool_size,
                                 bool mean, bool rectify, Array kernel, Winners winners,
                                 Array grads, Result image_grads) {
  const auto [layer, networks] = LayerOf(image_grads->dimensions(), kernel.dimensions(),
                                       grads.dimensions(), stride, pool_size, mean, rectify);
  if (!conv_pool::Fits(layer)) return ffi::Error::InvalidArgument("no kernel for these sizes");
  conv_pool::ImagesGradient(layer, networks, kernel.typed_data(), winners.typed_data(),
                            grads.typed_data(), image_grads->typed_data(), On(threads));
  return ffi::Error::Success();
}

static auto Binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<int64_t>("stride")
      .Attr<int64_t>("pool_size")
      .Attr<bool>("mean")
      .Attr<bool>("rectify");
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvPoolInfer, Infer,
                              Binding().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvPoolForward, Forward,
                              Binding().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>()
                                  .Ret<Winners>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvPoolWeightsGradient, WeightsGradient,
                              Binding().Arg<Array>().Arg<Winners>().Arg<Array>().Ret<Array>()
                                  .Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvPoolImagesGradient, ImagesGradient,
                              Binding().Arg<Array>().Arg<Winners>().Arg<Array>().Ret<Array>());
