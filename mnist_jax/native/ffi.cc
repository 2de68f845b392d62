// XLA's calls of conv_pool.cc: https://docs.jax.dev/en/latest/ffi.html

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

struct Options {
  int64_t stride, pool_size;
  bool mean, rectify;
};

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(Options, StructMember<int64_t>("stride"),
                                      StructMember<int64_t>("pool_size"),
                                      StructMember<bool>("mean"), StructMember<bool>("rectify"));

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;
using Winners = ffi::Buffer<ffi::U8>;

// Shares tasks among XLA's threads and this one. It waits for begun tasks, never for a free thread:
// the others may be waiting, too.
static conv_pool::Parallel On(ffi::ThreadPool& threads) {
  return [&threads](int64_t count, const std::function<void(int64_t)>& task) {
    struct Shared {
      std::atomic<int64_t> begun{0}, done{0};
    };
    // A late helper finds no task left, so it never touches `task`, which is gone by then. `shared`
    // lives until the last helper ends.
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

// Returns a layer from its arrays, and the number of networks: the product of `jax.vmap`'s leading
// axes.
static std::pair<conv_pool::Layer, int64_t> LayerOf(Options options, Array images, Array kernel,
                                                  Array outputs) {
  const int64_t* begin = images.dimensions().begin();
  const size_t axes = images.dimensions().size() - 4;
  const int64_t *x = begin + axes, *k = kernel.dimensions().begin() + axes,
                *y = outputs.dimensions().begin() + axes;
  return {{x[0], x[1], x[2], x[3], k[0], k[3], options.stride, options.pool_size, options.mean,
           options.rectify, y[1], y[2]},
          std::accumulate(begin, x, int64_t{1}, std::multiplies<>())};
}

static ffi::Error Unfit() {
  return ffi::Error::InvalidArgument("no kernel for these sizes");
}

static ffi::Error RunForward(ffi::ThreadPool threads, Options options, Array images, Array kernel,
                             Array bias, Result outputs, uint8_t* winners) {
  const auto [layer, networks] = LayerOf(options, images, kernel, *outputs);
  if (!conv_pool::Fits(layer) || int64_t(bias.element_count()) != networks * layer.filters ||
      int64_t(kernel.element_count()) != networks * layer.kernel_size())
    return Unfit();
  conv_pool::Forward(layer, networks, images.typed_data(), kernel.typed_data(), bias.typed_data(),
                     outputs->typed_data(), winners, On(threads));
  return ffi::Error::Success();
}

static ffi::Error Infer(ffi::ThreadPool threads, Options options, Array images, Array kernel,
                        Array bias, Result outputs) {
  return RunForward(threads, options, images, kernel, bias, outputs, nullptr);
}

static ffi::Error Forward(ffi::ThreadPool threads, Options options, Array images, Array kernel,
                          Array bias, Result outputs, ffi::Result<Winners> winners) {
  return RunForward(threads, options, images, kernel, bias, outputs, winners->typed_data());
}

static ffi::Error WeightsGradient(ffi::ThreadPool threads, Options options, Array images,
                                  Winners winners, Array grads, Result kernel_grads,
                                  Result bias_grads) {
  const auto [layer, networks] = LayerOf(options, images, *kernel_grads, grads);
  if (!conv_pool::Fits(layer)) return Unfit();
  conv_pool::WeightsGradient(layer, networks, images.typed_data(), winners.typed_data(),
                             grads.typed_data(), kernel_grads->typed_data(),
                             bias_grads->typed_data(), On(threads));
  return ffi::Error::Success();
}

static ffi::Error ImagesGradient(ffi::ThreadPool threads, Options options, Array kernel,
                                 Winners winners, Array grads, Result image_grads) {
  const auto [layer, networks] = LayerOf(options, *image_grads, kernel, grads);
  if (!conv_pool::Fits(layer)) return Unfit();
  conv_pool::ImagesGradient(layer, networks, kernel.typed_data(), winners.typed_data(),
                            grads.typed_data(), image_grads->typed_data(), On(threads));
  return ffi::Error::Success();
}

static auto Binding() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attrs<Options>(); }

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
