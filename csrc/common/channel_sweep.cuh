// A pass over a dense tensor of images, channel by channel, with the sum that each channel wants.
//
// A body is called as body.run<kWidth>(row, channel, sums) once for kWidth neighbouring elements:
//   sweep_rows:   elements [row][channel ..], channels innermost; sums[i] belongs to channel + i;
//   sweep_planes: images of (channels, pixels); `row` is the first element's offset, and all sums
//                 are channel's.
// Sums come out as partial[split][channel], one row for every block that shared a channel's
// elements, so that they are added in a fixed order (common/partial_sums.cuh).
#pragma once

#include <algorithm>

#include "common/cuda.cuh"

namespace fastmodel {

constexpr int kSweepThreads = 256;

// How a block lies over (rows, channels): `lanes` packs of channels side by side, the rest down the
// rows.
template <int kWidth>
struct RowTile {
  int lanes;

  explicit RowTile(int64_t channels) : lanes(1) {
    while (lanes < kWarp && lanes * kWidth < channels) lanes *= 2;
  }
  unsigned tiles(int64_t channels) const {
    return static_cast<unsigned>(ceil_div(channels, int64_t{lanes} * kWidth));
  }
};

// grid: (tiles of channels, splits of the rows)
template <int kWidth, bool kHasSums, typename Body>
__global__ void __launch_bounds__(kSweepThreads)
    sweep_rows_kernel(int64_t rows, int64_t channels, int lanes, Body body, float* partial) {
  const int lane = threadIdx.x % lanes, down = threadIdx.x / lanes;
  const int height = kSweepThreads / lanes;
  const int64_t channel = (int64_t{blockIdx.x} * lanes + lane) * kWidth;
  float sums[kWidth] = {};
  if (channel < channels) {
    const int64_t step = int64_t{gridDim.y} * height;
    for (int64_t row = int64_t{blockIdx.y} * height + down; row < rows; row += step) {
      body.template run<kWidth>(row, channel, sums);
    }
  }
  if constexpr (kHasSums) {
    FASTMODEL_SHARED(float, tile, kSweepThreads* kWidth);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) tile[threadIdx.x * kWidth + i] = sums[i];
    sync_block();
    const int64_t own = int64_t{blockIdx.x} * lanes * kWidth + threadIdx.x;
    if (static_cast<int>(threadIdx.x) >= lanes * kWidth || own >= channels) return;
    float total = 0.0f;
    for (int d = 0; d < height; ++d) total += tile[d * lanes * kWidth + threadIdx.x];
    partial[blockIdx.y * channels + own] = total;
  }
}

// grid: (channels, splits of the packs of a channel's images)
template <int kWidth, bool kHasSums, typename Body>
__global__ void __launch_bounds__(kSweepThreads)
    sweep_planes_kernel(int64_t images, int64_t channels, int64_t pixels, Body body,
                        float* partial) {
  const int64_t packs = pixels / kWidth, step = int64_t{gridDim.y} * kSweepThreads;
  const int64_t first = int64_t{blockIdx.y} * kSweepThreads + threadIdx.x;
  const int64_t step_images = step / packs, step_packs = step % packs;
  int64_t image = first / packs, pack = first % packs;
  float sum[1] = {};
  while (image < images) {
    const int64_t at = (image * channels + blockIdx.x) * pixels + pack * kWidth;
    float sums[kWidth] = {};
    body.template run<kWidth>(at, blockIdx.x, sums);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[0] += sums[i];
    image += step_images;
    pack += step_packs;
    if (pack >= packs) pack -= packs, ++image;
  }
  if constexpr (kHasSums) {
    const float total = block_sum<kSweepThreads>(sum[0]);
    if (threadIdx.x == 0) partial[blockIdx.y * channels + blockIdx.x] = total;
  }
}

// partial is (splits, channels), null where no sums are wanted.
template <int kWidth, bool kHasSums, typename Body>
void sweep_rows(const char* op, int64_t rows, int64_t channels, int64_t splits, const Body& body,
                float* partial, Stream stream) {
  const RowTile<kWidth> tile(channels);
  const dim3 grid(tile.tiles(channels), static_cast<unsigned>(splits));
  launch(op, sweep_rows_kernel<kWidth, kHasSums, Body>, grid, kSweepThreads, 0, stream, rows,
         channels, tile.lanes, body, partial);
}

template <int kWidth, bool kHasSums, typename Body>
void sweep_planes(const char* op, int64_t images, int64_t channels, int64_t pixels, int64_t splits,
                  const Body& body, float* partial, Stream stream) {
  const dim3 grid(static_cast<unsigned>(channels), static_cast<unsigned>(splits));
  launch(op, sweep_planes_kernel<kWidth, kHasSums, Body>, grid, kSweepThreads, 0, stream, images,
         channels, pixels, body, partial);
}

}  // namespace fastmodel
