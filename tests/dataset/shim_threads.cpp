// dataset/render.cu on a CPU with real threads, for ThreadSanitizer: five a block, a barrier for __syncthreads.
// Reads S, width, N, R, then pixels, rows and look from stdin; writes the views to stdout.
// An argument: the line of SOURCE whose __syncthreads() is left out.
#include <pthread.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#define __global__
#define __device__
#define __shared__ static
struct Place { int x; };
static thread_local Place threadIdx;
static Place blockDim = {5}, blockIdx = {0};
static pthread_barrier_t barrier;
static int left_out;
static void meet(int line) {
  if (line != left_out) pthread_barrier_wait(&barrier);
  else usleep(100 * threadIdx.x);  // threads in step may hide the race
}
#define __syncthreads() meet(__LINE__)
static int atomicAdd(int* sum, int more) { return __atomic_fetch_add(sum, more, __ATOMIC_RELAXED); }
static int shared_memory[1 << 16];
#include SOURCE

template <class T> std::vector<T> read(size_t count) {
  std::vector<T> values(count);
  if (fread(values.data(), sizeof(T), count, stdin) != count) abort();
  return values;
}

int main(int argc, char** argv) {
  left_out = argc > 1 ? atoi(argv[1]) : 0;
  auto sizes = read<int>(4);
  size_t S = sizes[0], width = sizes[1], N = sizes[2], R = sizes[3];
  auto pixels = read<u8>(N * 3 * S * S);
  auto rows = read<int>(R * width);
  auto look = read<float>(6);
  std::vector<float> out(R * 3 * S * S, NAN);
  pthread_barrier_init(&barrier, nullptr, blockDim.x);
  for (blockIdx.x = 0; blockIdx.x < (int)R; blockIdx.x++) {
    std::vector<std::thread> threads;
    for (int t = 0; t < blockDim.x; t++)
      threads.emplace_back([&, t] {
        threadIdx.x = t;
        render(pixels.data(), rows.data(), look.data(), out.data(), S, width);
      });
    for (auto& thread : threads) thread.join();
  }
  fwrite(out.data(), sizeof(float), out.size(), stdout);
}
