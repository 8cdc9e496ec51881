// dataset/render.cu on a CPU: one thread a block, one block after another. SOURCE: that file, see tests/test_kernel.py.
#define __global__
#define __device__
#define __shared__ static
static struct { int x; } threadIdx = {0}, blockDim = {1}, blockIdx = {0};
static void __syncthreads() {}
static int atomicAdd(int* sum, int more) { return *sum += more; }
static int shared_memory[1 << 16];
#include SOURCE

extern "C" void render_all(const u8* pixels, const int* rows, const float* look, float* out, int S, int width, int R) {
  for (blockIdx.x = 0; blockIdx.x < R; blockIdx.x++) render(pixels, rows, look, out, S, width);
}
