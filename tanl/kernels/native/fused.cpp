// The CPU kernels behind tanl.kernels.native: one pass over the label matrix gives the exponentials of all rows.
//
// Vector lanes are image rows; labels are broadcast, so that the label matrix is read as it lies in memory, once,
// and no packed copy of it exists. Logits are in base 2 throughout: the rows come scaled by scale * log2(e).
// The arithmetic is written once (variant.inc) and compiled for several instruction sets; which one runs is
// chosen by the caller from `tanl_supported`. Every tile of labels is computed by one thread in one order, so that
// results do not depend on the number of threads.
//
// A plain C interface without Python or torch in it: one build serves every version of both.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace cpu {

// Labels that share a maximum. A multiple of every variant's lanes and of its labels in a micro-tile.
constexpr int64_t TILE = 96;
// Columns of a micro-tile's labels that are copied at a time: their row stride is then known to the compiler.
constexpr int64_t COLUMNS = 512;
constexpr float LOWEST = -1e30f;  // the logit of a label that is not there
constexpr float LOG2E = 1.44269504088896340736f;

struct Matrix {
    const void* data;  // [rows, columns], row-major
    int64_t rows, columns;
    bool half;
};

struct Segment {
    int64_t first, stop;
};

// IEEE half to single by the exponent's bias alone; infinities and NaN do not occur in checked embeddings.
inline float from_half(uint16_t h) {
    uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13, sign = static_cast<uint32_t>(h & 0x8000) << 16;
    float value;
    std::memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
    std::memcpy(&magnitude, &value, 4);
    magnitude |= sign;
    std::memcpy(&value, &magnitude, 4);
    return value;
}

// By its bits: the compiler is told that there is no NaN (-ffinite-math-only), and would drop a comparison.
inline bool any_nan(const double* values, int64_t count) {
    uint64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        uint64_t bits;
        std::memcpy(&bits, values + i, 8);
        found |= (bits & 0x7fffffffffffffffULL) > 0x7ff0000000000000ULL;
    }
    return found != 0;
}

// While it lives, the calling thread computes with denormal numbers, as IEEE has it: torch.set_flush_denormal is set
// thread by thread, and results must not depend on which thread computed them.
class ExactDenormals {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();

  public:
    ExactDenormals() { _mm_setcsr(before & ~0x8040u); }  // neither flush to zero nor denormals are zero
    ~ExactDenormals() { _mm_setcsr(before); }
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
    uint64_t before;

  public:
    ExactDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" : : "r"(before & ~(uint64_t{1} << 24)));
    }
    ~ExactDenormals() { asm volatile("msr fpcr, %0" : : "r"(before)); }
#else
  public:
    ExactDenormals() {}
#endif
    ExactDenormals(const ExactDenormals&) = delete;
    ExactDenormals& operator=(const ExactDenormals&) = delete;
};

// GOMP_parallel of the OpenMP runtime that torch runs on: its threads are there and, just after one of torch's own
// operations, still awake and on the processors; threads of ours would have to share these with them.
using Pool = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<Pool> pool{nullptr};

// Calls work() on up to `threads` threads at once; the calling one is among them.
template <class Work>
void on_threads(int64_t threads, Work& work) {
    if (threads <= 1) return work();
    if (Pool run = pool) return run([](void* w) { (*static_cast<Work*>(w))(); }, &work, unsigned(threads), 0);
    std::vector<std::thread> helpers;
    helpers.reserve(threads - 1);
    for (int64_t t = 1; t < threads; t++) {
        try {
            helpers.emplace_back([&work] { work(); });
        } catch (const std::exception&) {
            break;  // no more threads to be had: those that there are do all of it
        }
    }
    work();
    for (auto& helper : helpers) helper.join();
}

// Runs job(i) for every i below count, on up to `threads` threads.
template <class Job>
void run_parallel(int64_t count, int threads, Job job) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    auto work = [&] {
        try {
            ExactDenormals exact;
            typename Job::Scratch scratch(job);
            for (int64_t i; !failed.load(std::memory_order_relaxed) && (i = next.fetch_add(1)) < count;)
                job(i, scratch);
        } catch (...) {
            failed = true;
        }
    };
    on_threads(std::min<int64_t>(threads, count), work);
    if (failed) throw std::bad_alloc();
}

// Asks for large pages in memory that was not touched yet: first touches of small ones took a third of a pass.
inline void use_large_pages(void* memory, size_t bytes) {
#if defined(__linux__)
    constexpr uintptr_t LARGE = uintptr_t{2} << 20;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + LARGE - 1) & ~(LARGE - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) & ~(LARGE - 1);
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

}  // namespace cpu

// Each variant: LANES of a vector, LABELS x VECTORS of accumulators in a micro-tile.

#define TANL_VARIANT portable
#define TANL_LANES 4
#define TANL_LABELS 6
#define TANL_VECTORS 2
#include "variant.inc"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define TANL_VARIANT avx2
#define TANL_LANES 8
#define TANL_LABELS 6
#define TANL_VECTORS 2
#include "variant.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#define TANL_VARIANT avx512
#define TANL_LANES 16
#define TANL_LABELS 12
#define TANL_VECTORS 2
#include "variant.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace {

enum Variant { PORTABLE = 0, AVX2 = 1, AVX512 = 2 };

template <class Call>
int dispatch(int variant, Call call) {
    try {
        switch (variant) {
            case PORTABLE: call(cpu::portable::Kernels{}); return 0;
#if defined(__x86_64__)
            case AVX2: call(cpu::avx2::Kernels{}); return 0;
            case AVX512: call(cpu::avx512::Kernels{}); return 0;
#endif
            default: return 1;
        }
    } catch (const std::exception&) {
        return 2;
    }
}

cpu::Matrix matrix(const void* data, int64_t rows, int64_t columns, int half) {
    return {data, rows, columns, half != 0};
}

}  // namespace

extern "C" {

// Whether a variant was compiled and this processor can run it.
int tanl_supported(int variant) {
    if (variant == PORTABLE) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (variant == AVX2) return avx2;
    if (variant == AVX512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    return 0;
}

// Threads come from this GOMP_parallel from now on; nullptr: from std::thread.
void tanl_use_pool(void* gomp_parallel) { cpu::pool = reinterpret_cast<cpu::Pool>(gomp_parallel); }

int tanl_lanes(int variant) { return variant == AVX512 ? 16 : variant == AVX2 ? 8 : 4; }

int64_t tanl_tile(void) { return cpu::TILE; }

// z [n, D]; labels [N, D]; values [tiles * TILE, padded n], maxima and lse in base e: [tiles, padded n], [padded n].
// values == nullptr: log-sum-exps only.
int tanl_exp_store(int variant, int threads, const float* z, int64_t n, const void* labels, int half, int64_t N,
                   int64_t D, float scale, float* values, float* maxima, float* lse) {
    return dispatch(variant, [&](auto kernels) {
        kernels.exp_store(threads, z, n, matrix(labels, N, D, half), scale, values, maxima, lse);
    });
}

// segments [G, 2]; out [G, N].
int tanl_segment_colsum_stored(int variant, int threads, const float* values, const float* maxima, const float* lse,
                               int64_t n, int64_t N, const int64_t* segments, int64_t G, float* out) {
    return dispatch(variant, [&](auto kernels) {
        kernels.segment_colsum_stored(threads, values, maxima, lse, n, N,
                                      reinterpret_cast<const cpu::Segment*>(segments), G, out);
    });
}

int tanl_segment_colsum(int variant, int threads, const float* z, int64_t n, const void* labels, int half, int64_t N,
                        int64_t D, float scale, const float* lse, const int64_t* segments, int64_t G, float* out) {
    return dispatch(variant, [&](auto kernels) {
        kernels.segment_colsum(threads, z, n, matrix(labels, N, D, half), scale, lse,
                               reinterpret_cast<const cpu::Segment*>(segments), G, out);
    });
}

// id_lse [B]; logits [B, K]; out [B].
int tanl_prefix_share(int variant, int threads, const float* id_lse, const float* logits, int64_t B, int64_t K,
                      int64_t step, float* out) {
    return dispatch(variant, [&](auto kernels) {
        kernels.prefix_share(threads, id_lse, logits, B, K, step, out);
    });
}

// values [M]; out [k], 1 <= k <= M: indices of the largest, largest first, equal ones in their order. 3: there is a NaN,
// which has no place in an order.
int tanl_stable_topk(const double* values, int64_t M, int64_t k, int64_t* out) {
    try {
        if (cpu::any_nan(values, M)) return 3;
        std::vector<double> sorted(values, values + M);
        std::nth_element(sorted.begin(), sorted.begin() + (k - 1), sorted.end(), std::greater<double>());
        const double smallest = sorted[k - 1];
        int64_t above = 0;
        for (int64_t i = 0; i < M; i++) above += values[i] > smallest;
        int64_t taken = 0, ties = k - above;
        for (int64_t i = 0; i < M; i++)
            if (values[i] > smallest || (values[i] == smallest && ties-- > 0)) out[taken++] = i;
        std::stable_sort(out, out + k, [&](int64_t a, int64_t b) { return values[a] > values[b]; });
        return 0;
    } catch (const std::exception&) {
        return 2;
    }
}

}  // extern "C"
