// All views of a step in one launch, a block for each: RandAugment's layers, crop, flip, normalise, hole. Bit for bit
// what the batched functions of dataset/ make on a CPU, for which tests/dataset/test_kernel.py compiles this file as well.
// Needs -fmad=false: a fused multiply-add rounds once where they round twice.
// pixels: (N, 3, S, S); rows: (R, width), see dataset/rows.py: image, top, left, flip, y and x of the hole, and of each
// layer f, its place in dataset.randaugment.FUNCTIONS, and seven numbers p; look: mean (3), std (3); out: (R, 3, S, S).
// Dynamic shared memory: 3072 + 768 + 6 S S bytes.
typedef unsigned char u8;
#define EACH(i, end) for (int i = threadIdx.x; i < (end); i += blockDim.x)
#define CHANNELS(j, i) for (int j = i; j < 3 * n; j += n)  // where pixel i lies in each channel

__device__ inline u8 blend(float worse, float level, float share) {
  float v = (level - worse) * share + worse;
  return (u8)(int)(v < 0 ? 0 : v > 255 ? 255 : v);
}
__device__ inline int grey(const u8* c, int n) {
  return (c[0] * 19595 + c[n] * 38470 + c[2 * n] * 7471 + 0x8000) >> 16;
}
__device__ inline float as_float(int bits) { union { int i; float f; } u; u.i = bits; return u.f; }
__device__ inline u8 stretched(int level, int low, int high) {  // in double, like Pillow's Python floats
  if (high == low) return level;
  double scale = 255.0 / (high - low), shift = low * scale, v = level * scale;
  return (u8)(int)(v - shift);
}
__device__ inline u8 equalized(int level, int below, int step) {
  int v = step ? (below + step / 2) / step : level;
  return v > 255 ? 255 : v;
}

extern "C" __global__ void render(const u8* __restrict__ pixels, const int* __restrict__ rows,
                                  const float* __restrict__ look, float* __restrict__ out, int S, int width) {
  extern __shared__ int count[];                           // (3, 256): a histogram, or the pixels below each level
  __shared__ int total, low[3], high[3], step[3];
  const int n = S * S;
  u8 *table = (u8*)(count + 768), *now = table + 768, *next = now + 3 * n;  // (3, 256), the image before and after
  const int* row = rows + (long long)blockIdx.x * width;
  const u8* source = pixels + (long long)row[0] * 3 * n;
  EACH(i, 3 * n) now[i] = source[i];
  __syncthreads();
  for (int layer = 6; layer < width; layer += 8) {
    const int f = row[layer], *p = row + layer + 1;        // the same f for the whole block: all reach each barrier
    if (f == 0) continue;                                  // Identity
    if (f == 1 || f == 2) {                                // AutoContrast, Equalize
      EACH(i, 768) count[i] = 0;
      __syncthreads();
      EACH(i, n) CHANNELS(j, i) atomicAdd(count + (j - i) / n * 256 + now[j], 1);
      __syncthreads();
      EACH(c, 3) {
        int *h = count + 256 * c, lo = 0, hi = 255, below = 0;
        while (!h[lo]) lo++;
        while (!h[hi]) hi--;
        low[c] = lo, high[c] = hi, step[c] = (n - h[hi]) / 255;
        for (int v = 0; v < 256; v++) below += h[v], h[v] = below - h[v];
      }
      __syncthreads();
      EACH(i, 768) {
        int c = i / 256, v = i % 256;
        table[i] = f == 1 ? stretched(v, low[c], high[c]) : equalized(v, count[i], step[c]);
      }
      __syncthreads();
      EACH(i, n) CHANNELS(j, i) next[j] = table[(j - i) / n * 256 + now[j]];
    } else if (f == 3) {                                   // Invert, Posterize, Solarize, SolarizeAdd
      EACH(i, 3 * n) {
        int v = now[i] + p[0];
        v = v < 0 ? 0 : v > 255 ? 255 : v;
        next[i] = (v >= p[1] ? ~v : v) & p[2];
      }
    } else if (f == 4) {                                   // Brightness, Contrast (p[1]), Color (p[2])
      if (threadIdx.x == 0) total = 0;
      __syncthreads();
      int sum = 0;
      if (p[1]) EACH(i, n) sum += grey(now + i, n);
      if (p[1]) atomicAdd(&total, sum);
      __syncthreads();
      float mean = p[1] ? (float)(int)((double)total / n + 0.5) : 0;
      EACH(i, n) {
        float worse = p[2] ? (float)grey(now + i, n) : mean;
        CHANNELS(j, i) next[j] = blend(worse, now[j], as_float(p[0]));
      }
    } else if (f == 5) {                                   // Sharpness
      EACH(i, n) {
        int y = i / S, x = i % S;
        bool rim = y == 0 || x == 0 || y == S - 1 || x == S - 1;
        CHANNELS(j, i) {
          int sum = 4 * now[j];
          for (int d = 0; d < 9 && !rim; d++) sum += now[j + (d / 3 - 1) * S + d % 3 - 1];
          next[j] = blend(rim ? now[j] : (2 * sum + 13) / 26, now[j], as_float(p[0]));
        }
      }
    } else if (f == 6) {                                   // Rotate, Shear, Translate
      EACH(i, n) {
        int y = i / S, x = i % S;
        int from_x = (p[0] * x + p[2] + p[1] * y) >> 16, from_y = (p[3] * x + p[5] + p[4] * y) >> 16;
        bool inside = from_x >= 0 && from_x < S && from_y >= 0 && from_y < S;
        CHANNELS(j, i) next[j] = inside ? now[j - i + from_y * S + from_x] : 0;
      }
    } else {                                               // Cutout
      EACH(i, n) {
        int y = i / S, x = i % S;
        bool inside = p[0] <= x && x <= p[1] && p[2] <= y && y <= p[3];
        CHANNELS(j, i) next[j] = inside ? p[4 + (j - i) / n] : now[j];
      }
    }
    __syncthreads();
    u8* before = now;
    now = next, next = before;
  }
  EACH(i, n) {
    int y = i / S, x = i % S, half = S / 2 / 2;
    int from_y = y + row[1] - S / 8, from_x = (row[3] ? S - 1 - x : x) + row[2] - S / 8;
    bool inside = from_x >= 0 && from_x < S && from_y >= 0 && from_y < S;
    bool hole = row[4] - half <= y && y < row[4] + half && row[5] - half <= x && x < row[5] + half;
    CHANNELS(j, i) {
      int c = (j - i) / n;
      float level = inside ? now[j - i + from_y * S + from_x] : 0;
      // A product, as in the batched functions: the hole of a negative number is -0.
      out[(long long)blockIdx.x * 3 * n + j] = (level / 255.0f - look[c]) / look[3 + c] * (hole ? 0.0f : 1.0f);
    }
  }
}
