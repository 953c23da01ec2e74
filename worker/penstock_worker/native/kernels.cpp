// A whole step of the decoder on a CPU, behind a C interface: what Python calls once per step.
//
// Why one call: at 60 million parameters a step takes two milliseconds, and a framework's dispatch
// of some hundred operators takes as long. Here a team of threads walks through the layers
// together, with a barrier between phases; nothing is allocated and nothing is dispatched.
//
// The file is compiled once per instruction-set level (see levels.py): W, the number of floats in a
// vector, and the dot-product instructions follow from the compiler's flags. Vectors are GCC's
// vector extension, so the same text serves AVX-512, AVX2, SSE and NEON.
//
// Sources. Matrix products: Goto & van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication", 2008 (packed panels, register tiles). Attention: Kwon et al., "PagedAttention",
// SOSP 2023 (block tables); Dao et al., "FlashAttention", 2022 (online softmax over chunks of KV).
// exp: Cephes' expf (S. Moshier). Adapters: Hu et al., "LoRA", 2021.

#include <algorithm>
#include <atomic>
#include <bit>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mman.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// ---------------------------------------------------------------------------------- vectors

#if defined(__AVX512F__)
constexpr int W = 16;
constexpr int MAX_TILE = 14;  // rows of a register tile: 14 x 2 accumulators of 32 registers
#elif defined(__AVX__)
constexpr int W = 8;
constexpr int MAX_TILE = 6;  // 6 x 2 of 16 registers
#elif defined(__aarch64__)
constexpr int W = 4;
constexpr int MAX_TILE = 12;
#else
constexpr int W = 4;
constexpr int MAX_TILE = 6;
#endif
constexpr int PANEL = 2 * W;  // columns of a register tile, and of a packed panel of weights

typedef float Floats __attribute__((vector_size(4 * W)));
typedef int32_t Ints __attribute__((vector_size(4 * W)));
typedef uint32_t Words __attribute__((vector_size(4 * W)));
typedef uint16_t Halves __attribute__((vector_size(2 * W)));
typedef uint8_t Bytes __attribute__((vector_size(W)));

template <class V, class T>
inline V load(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V, class T>
inline void store(T* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

inline Floats all(float value) { return value - Floats{}; }

inline Floats max(Floats a, Floats b) { return a > b ? a : b; }

template <int... I>
inline float sum_halves(auto v, std::integer_sequence<int, I...>) {
  constexpr int half = sizeof...(I);
  const auto folded = __builtin_shufflevector(v, v, I...) + __builtin_shufflevector(v, v, (half + I)...);
  if constexpr (half == 2) {
    return folded[0] + folded[1];
  } else {
    return sum_halves(folded, std::make_integer_sequence<int, half / 2>());
  }
}

inline float sum(Floats v) { return sum_halves(v, std::make_integer_sequence<int, W / 2>()); }

inline float largest(Floats v) {
  float found = v[0];
  for (int i = 1; i < W; i++) found = std::max(found, v[i]);
  return found;
}

constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer

inline Ints rounded(Floats x) {  // of numbers below 2^22
  return std::bit_cast<Ints>(x + ROUND) - std::bit_cast<int32_t>(ROUND);
}

// e^x, relative error below 2e-7; everything below -87 gives (nearly) nothing.
inline Floats exp(Floats x) {
  x = max(x, all(-87.0f));
  x = x < all(88.0f) ? x : all(88.0f);
  const Floats n = (x * 1.44269504088896341f + ROUND) - ROUND;
  const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  return p * std::bit_cast<Floats>(power);
}

// cap * tanh(x / cap): scores are bent into that range (Gemma 2).
inline Floats capped(Floats x, float cap) { return cap - 2.0f * cap / (1.0f + exp(x * (2.0f / cap))); }

// GELU's approximation by tanh (Hendrycks & Gimpel, 2016): tanh(u) = 2 sigmoid(2u) - 1.
inline Floats gelu(Floats x) {
  return x / (1.0f + exp(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
}

template <class Bits>
inline Bits bf16_bits(Bits bits) {  // of a float's bits: round to nearest even
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline uint32_t bf16_bits(float value) { return bf16_bits(std::bit_cast<uint32_t>(value)); }

inline float bf16_value(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

inline Floats widen(Halves bf16) {
  return std::bit_cast<Floats>(__builtin_convertvector(bf16, Words) << 16);
}

inline Floats load_floats(const float* from) { return load<Floats>(from); }
inline Floats load_floats(const uint16_t* from) { return widen(load<Halves>(from)); }

inline float value_of(float stored) { return stored; }
inline float value_of(uint16_t stored) { return bf16_value(stored); }
inline void put(float* to, float value) { *to = value; }
inline void put(uint16_t* to, float value) { *to = bf16_bits(value); }

// A square of W x W numbers, transposed in log2(W) rounds of shuffles.
template <int STEP = 1, int... I>
inline void transpose(Floats (&rows)[W], std::integer_sequence<int, I...> lanes) {
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) {
    if (i & STEP) continue;
    const Floats a = rows[i], b = rows[i + STEP];
    rows[i] = __builtin_shufflevector(a, b, (I & STEP ? W + I - STEP : I)...);
    rows[i + STEP] = __builtin_shufflevector(a, b, (I & STEP ? W + I : I + STEP)...);
  }
  if constexpr (2 * STEP < W) transpose<2 * STEP>(rows, lanes);
}

// Copy part of a panel's row; most often it is whole.
inline void copy(const float* from, int count, float* to) {
  std::memcpy(to, from, count == PANEL ? PANEL * 4 : size_t{4} * count);
}

template <class T>
inline float dot(const float* a, const T* b, int n) {
  Floats total = {};
  int i = 0;
  for (; i + W <= n; i += W) total += load<Floats>(a + i) * load_floats(b + i);
  float found = sum(total);
  for (; i < n; i++) found += a[i] * value_of(b[i]);
  return found;
}

// ---------------------------------------------------------------------------------- memory

// 64-byte aligned; large pieces ask for huge pages, since a step streams through all of them and
// would miss the TLB at every fourth kilobyte.
class Memory {
 public:
  void reserve(size_t bytes) {
    if (bytes <= bytes_) return;
    constexpr size_t huge = size_t{1} << 21;
    const size_t alignment = bytes >= huge ? huge : 64;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void* found = std::aligned_alloc(alignment, rounded);
    if (!found) throw std::bad_alloc();
    if (alignment == huge) madvise(found, rounded, MADV_HUGEPAGE);
    data_.reset(found);
    bytes_ = bytes;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
  size_t bytes_ = 0;
};

// ---------------------------------------------------------------------------------- threads

// A fixed team that runs one function together. Waiting threads spin for some ten microseconds, as
// phases are that short, then sleep: whoever is waited for may have lost its processor to another
// process, and gets it back the sooner.
constexpr int SPINS = 1000;

class Team {
 public:
  explicit Team(int size) : size_(size) {
    for (int i = 1; i < size; i++) threads_.emplace_back([this, i] { follow(i); });
  }

  ~Team() {
    stop_ = true;
    advance(round_);
    for (auto& thread : threads_) thread.join();
  }

  int size() const { return size_; }

  template <class F>
  void run(F& work) {
    call_ = [](void* f, int thread) { (*static_cast<F*>(f))(thread); };
    argument_ = &work;
    next_.store(0, std::memory_order_relaxed);
    advance(round_);
    work(0);
    barrier();
  }

  // Within run: share out tasks 0 ... count - 1, first come first served, and wait for the last.
  template <class F>
  void each(int count, F task) {
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    barrier();
  }

 private:
  void follow(int thread) {
    for (uint32_t seen = 0;; seen++) {
      await(round_, seen);
      if (stop_) return;
      call_(argument_, thread);
      barrier();
    }
  }

  void barrier() {
    if (size_ == 1) {
      next_.store(0, std::memory_order_relaxed);
      return;
    }
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      advance(phase_);
    } else {
      await(phase_, phase);
    }
  }

  static void advance(std::atomic<uint32_t>& counter) {
    counter.fetch_add(1, std::memory_order_acq_rel);
    counter.notify_all();
  }

  static void await(const std::atomic<uint32_t>& counter, uint32_t seen) {
    for (int spin = 0; spin < SPINS; spin++) {
      if (counter.load(std::memory_order_acquire) != seen) return;
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
    counter.wait(seen, std::memory_order_acquire);
  }

  const int size_;
  std::atomic<bool> stop_{false};
  void (*call_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> next_{0};
  std::vector<std::thread> threads_;
};

// ---------------------------------------------------------------------------------- tiles

// Inputs and weights of a product are packed into 32-bit words along the inner dimension: one
// float32, two bfloat16 or four bytes. Inputs lie as [tile][word][row], weights as
// [panel][word][column], so the innermost loop reads both in order, whatever the type.
// An operation multiplies a word of input with a vector of weight words and accumulates; it also
// makes W words of inputs, which bytes are scaled for.

struct Float32 {
  static constexpr int PER_WORD = 1;
  using Sum = Floats;
  static Words pack(const float* x, float) { return load<Words>(x); }
  static void add(Sum& sum, uint32_t a, Words b) {
    sum += std::bit_cast<float>(a) * std::bit_cast<Floats>(b);
  }
};

struct BFloat16 {
  static constexpr int PER_WORD = 2;
  using Sum = Floats;
  static Words pack(const float* x, float) {
    return pairs(bf16_bits(load<Words>(x)), bf16_bits(load<Words>(x + W)), std::make_integer_sequence<int, W>());
  }
  template <int... I>
  static Words pairs(Words a, Words b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, 2 * I...) | __builtin_shufflevector(a, b, (2 * I + 1)...) << 16;
  }
  static void add(Sum& sum, uint32_t a, Words b) {
#if defined(__AVX512BF16__)
    sum = _mm512_dpbf16_ps(sum, (__m512bh)(_mm512_set1_epi32(a)), (__m512bh)(b));
#else
    sum += std::bit_cast<float>(a << 16) * std::bit_cast<Floats>(b << 16);
    sum += std::bit_cast<float>(a & 0xffff0000u) * std::bit_cast<Floats>(b & 0xffff0000u);
#endif
  }
};

struct Int8 {  // input bytes are unsigned with zero at 128, weight bytes are signed
  static constexpr int PER_WORD = 4;
  using Sum = Ints;
  static Words pack(const float* x, float scale) {
    uint8_t bytes[4 * W];
    for (int i = 0; i < 4; i++)
      store(bytes + i * W, __builtin_convertvector(rounded(load<Floats>(x + i * W) * scale) + 128, Bytes));
    return load<Words>(bytes);
  }
  static void add(Sum& sum, uint32_t a, Words b) {
#if defined(__AVX512VNNI__)
    sum = (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(a), (__m512i)b);
#else
    const Ints bytes = (Ints)b;
    sum += static_cast<int>(a & 255) * ((bytes << 24) >> 24);
    sum += static_cast<int>(a >> 8 & 255) * ((bytes << 16) >> 24);
    sum += static_cast<int>(a >> 16 & 255) * ((bytes << 8) >> 24);
    sum += static_cast<int>(a >> 24) * (bytes >> 24);
#endif
  }
};

// Which weights to fetch while a tile is computed: `step` bytes per word of the inner dimension.
// The processor's own prefetcher keeps too short a distance: without this, time for memory and time
// for arithmetic add up instead of overlapping.
struct Ahead {
  const char* from;
  int step;
};

using Tile = void (*)(const uint32_t*, const uint32_t*, int, float*, bool, Ahead);

// sums[R][PANEL] (+)= inputs . weights[words][PANEL]; all sums stay in registers. Inputs are packed,
// [words][R], or lie in R rows, ROW words apart.
template <class Op, int R, int ROW>
void tile(const uint32_t* a, const uint32_t* b, int words, float* sums, bool fresh, Ahead ahead) {
  typename Op::Sum left[R], right[R];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    left[i] = fresh ? typename Op::Sum{} : load<typename Op::Sum>(sums + i * PANEL);
    right[i] = fresh ? typename Op::Sum{} : load<typename Op::Sum>(sums + i * PANEL + W);
  }
  for (int k = 0; k < words; k++, a += ROW ? 1 : R, b += PANEL, ahead.from += ahead.step) {
    __builtin_prefetch(ahead.from);
    __builtin_prefetch(ahead.from + ahead.step / 2);
    const Words b0 = load<Words>(b), b1 = load<Words>(b + W);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const uint32_t word = a[ROW ? i * ROW : i];
      Op::add(left[i], word, b0);
      Op::add(right[i], word, b1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    store(sums + i * PANEL, left[i]);
    store(sums + i * PANEL + W, right[i]);
  }
}

template <class Op, int ROW, int... R>
Tile pick(int rows, std::integer_sequence<int, R...>) {
  static constexpr Tile tiles[] = {tile<Op, R + 1, ROW>...};
  return tiles[rows - 1];
}

template <class Op, int ROW = 0>
Tile tile_of(int rows) {
  return pick<Op, ROW>(rows, std::make_integer_sequence<int, MAX_TILE>());
}

// Rows are spread evenly over tiles: 32 rows are three tiles of 11, not 14 + 14 + 4.
int tile_rows(int rows) {
  const int tiles = (rows + MAX_TILE - 1) / MAX_TILE;
  return (rows + tiles - 1) / tiles;
}

// ---------------------------------------------------------------------------------- inputs

enum class Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };

constexpr int GROUP = 64;         // weights of a column that share an int4 scale and minimum
constexpr int BLOCK_WORDS = 512;  // inner dimension per pass: a panel's block stays in L1 or L2
constexpr int AHEAD_WORDS = 48;   // how far weights are fetched ahead where they are used once
constexpr int BLOCK_TILES = 8;    // tiles that a block of weights is used for before it is left

int per_word(Kind kind) {
  return kind == Kind::INT8 ? 4 : kind == Kind::BFLOAT16 ? 2 : 1;  // int4 is computed in float32
}

// Inputs of a product, packed for one kind of weights.
struct Inputs {
  Memory data, scales;  // [tiles][words][tile rows]; int8: a factor per row
  Kind kind = Kind::FLOAT32;
  int rows = 0, tile = 1, words = 0;

  int tiles() const { return (rows + tile - 1) / tile; }

  void shape(Kind as, int row_count, int columns) {
    kind = as;
    rows = row_count;
    tile = tile_rows(row_count);
    words = (columns + per_word(as) - 1) / per_word(as);
    data.reserve(size_t{4} * words * tiles() * tile);
    scales.reserve(size_t{4} * tiles() * tile);
  }

  uint32_t* at(int index) const { return data.as<uint32_t>() + size_t(index) * words * tile; }

  // Pack the rows of one tile, `stride` floats apart; those that the last tile lacks become zero.
  void pack(int index, const float* from, size_t stride, int columns) const {
    if (kind == Kind::BFLOAT16)
      pack_as<BFloat16>(index, from, stride, columns);
    else if (kind == Kind::INT8)
      pack_as<Int8>(index, from, stride, columns);
    else
      pack_as<Float32>(index, from, stride, columns);
  }

 private:
  // W rows at a time are transposed in registers. Where a tile has fewer, all W are stored even so:
  // what is too much is overwritten by the next word's, but for the last words of a tile.
  template <class Op>
  void pack_as(int index, const float* from, size_t stride, int columns) const {
    const int present = std::min(tile, rows - index * tile);
    float factors[MAX_TILE] = {};
    if (kind == Kind::INT8)
      for (int r = 0; r < present; r++) factors[r] = scale(index * tile + r, from + r * stride, columns);
    for (int k = 0; k < words; k += W)
      for (int first = 0; first < tile; first += W) {
        Floats square[W] = {};
        for (int i = 0; i < std::min(W, present - first); i++)
          square[i] = std::bit_cast<Floats>(
              words_at<Op>(from + (first + i) * stride, k, columns, factors[first + i]));
        transpose(square, std::make_integer_sequence<int, W>());
        uint32_t* to = at(index) + size_t(k) * tile + first;
        const int count = std::min(W, words - k), high = std::min(W, tile - first);
        if (tile <= W && (words - k - W) * tile >= W)
          for (int i = 0; i < W; i++) store(to + i * tile, square[i]);
        else
          for (int i = 0; i < count; i++) std::memcpy(to + i * tile, &square[i], size_t{4} * high);
      }
  }

  template <class Op>
  static Words words_at(const float* x, int word, int columns, float factor) {
    const int first = word * Op::PER_WORD;
    if (first + W * Op::PER_WORD <= columns) return Op::pack(x + first, factor);
    float rest[W * Op::PER_WORD] = {};
    std::memcpy(rest, x + first, size_t{4} * (columns - first));
    return Op::pack(rest, factor);
  }

  // Find and keep the scale of a row of bytes; returns what its numbers are multiplied with.
  float scale(int row, const float* x, int columns) const {
    Floats high = all(1e-12f);
    int k = 0;
    for (; k + W <= columns; k += W) high = max(high, max(load<Floats>(x + k), -load<Floats>(x + k)));
    float top = largest(high);
    for (; k < columns; k++) top = std::max(top, std::fabs(x[k]));
    scales.as<float>()[row] = top / 127.0f;
    return 127.0f / top;
  }
};

// ---------------------------------------------------------------------------------- adapters

// What an adapter adds to a linear layer is B (A x). A x is found once for all linear layers that
// share an input; it is multiplied with B where the layer's own sums are at hand. Both go row by
// row in float32, so an adapted row's numbers depend on nothing beside it either.

constexpr int RANKS = 16;  // of a task

// A of the linear layers that share an input, one below the other: [rank][inputs].
struct Reduction {
  const float* a = nullptr;
  int rank = 0;

  // to[j] = A[j] . x for `count` ranks from `first` on; four at a time share what is read of x.
  void apply(const float* x, int inputs, int first, int count, float* to) const {
    for (int j = first; j < first + count; j += 4) {
      const float* rows[4];
      Floats sums[4] = {};
      for (int i = 0; i < 4; i++) rows[i] = a + size_t(std::min(j + i, rank - 1)) * inputs;
      int k = 0;
      for (; k + W <= inputs; k += W) {
        const Floats values = load<Floats>(x + k);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) sums[i] += values * load<Floats>(rows[i] + k);
      }
      for (int i = 0; i < 4 && j + i < first + count; i++) {
        to[j + i] = sum(sums[i]);
        for (int rest = k; rest < inputs; rest++) to[j + i] += x[rest] * rows[i][rest];
      }
    }
  }
};

// B of some outputs of a linear layer, packed into its panels: [panel][rank][PANEL].
struct Expansion {
  int at, rank;  // which of the ranks of the reduction
  int first_panel, panels;
  std::vector<float> b;

  // b is [outputs][rank], for the columns from `first` on.
  Expansion(int at, int rank, int first, int outputs, const float* from)
      : at(at), rank(rank), first_panel(first / PANEL), panels((first + outputs - 1) / PANEL - first_panel + 1),
        b(size_t(panels) * rank * PANEL) {
    for (int c = 0; c < outputs; c++) {
      const int column = first + c - first_panel * PANEL;
      float* to = &b[size_t(column / PANEL) * rank * PANEL + column % PANEL];
      for (int j = 0; j < rank; j++) to[size_t(j) * PANEL] = from[size_t(c) * rank + j];
    }
  }

  // y[PANEL] += B t for the columns of a panel.
  void apply(const float* reduced, int panel, float* y) const {
    if (panel < first_panel || panel >= first_panel + panels) return;
    const float* from = &b[size_t(panel - first_panel) * rank * PANEL];
    Floats left = load<Floats>(y), right = load<Floats>(y + W);
    for (int j = 0; j < rank; j++, from += PANEL) {
      left += reduced[at + j] * load<Floats>(from);
      right += reduced[at + j] * load<Floats>(from + W);
    }
    store(y, left);
    store(y + W, right);
  }
};

// ---------------------------------------------------------------------------------- linear layers

// y = x W' + b with packed weights. An int8 column has one scale; an int4 column has a scale and a
// minimum per GROUP weights, both bfloat16 in one word, followed by the weights, eight to a word.
class Linear {
 public:
  Kind kind = Kind::FLOAT32;
  int inputs = 0, outputs = 0;
  std::vector<Reduction> reductions;               // by adapter; that of gate is up's, too
  std::vector<std::vector<Expansion>> expansions;  // by adapter

  int panels() const { return (outputs + PANEL - 1) / PANEL; }
  int words() const { return (inputs + per_word(kind) - 1) / per_word(kind); }

  void shape(Kind as, int out, int in) {
    kind = as;
    inputs = in;
    outputs = out;
    data_.reserve(panels() * panel_words() * 4);
    bias_.assign(size_t(panels()) * PANEL, 0.0f);
    if (kind == Kind::INT8) {
      scales_.assign(bias_.size(), 0.0f);
      offsets_.assign(bias_.size(), 0);
    }
  }

  void set_bias(const float* bias) {
    biased_ = true;
    std::copy(bias, bias + outputs, bias_.begin());
  }

  // Pack a panel of the weight [outputs][inputs]; columns that it lacks are zero.
  void pack(int panel, const float* weight) {
    uint32_t* to = data_.as<uint32_t>() + panel * panel_words();
    std::memset(to, 0, panel_words() * 4);
    for (int c = 0; c < PANEL && panel * PANEL + c < outputs; c++) {
      const float* row = weight + size_t(panel * PANEL + c) * inputs;
      switch (kind) {
        case Kind::FLOAT32:
          for (int k = 0; k < inputs; k++) to[size_t(k) * PANEL + c] = std::bit_cast<uint32_t>(row[k]);
          break;
        case Kind::BFLOAT16:
          for (int k = 0; k < inputs; k++)
            to[size_t(k / 2) * PANEL + c] |= bf16_bits(row[k]) << (k % 2 * 16);
          break;
        case Kind::INT8:
          pack_int8(panel * PANEL + c, row, to + c);
          break;
        case Kind::INT4:
          for (int g = 0; g * GROUP < inputs; g++)
            pack_int4(row + g * GROUP, std::min(GROUP, inputs - g * GROUP), to + g * GROUP_WORDS + c);
      }
    }
  }

  const uint32_t* panel(int index) const { return data_.as<uint32_t>() + index * panel_words(); }

  // Compute tiles [first, first + count) of one panel into sums [count][tile][PANEL]. `next` are
  // the weights that this thread will probably read after these.
  void multiply(int index, const Inputs& x, int first, int count, float* sums, float* block,
                const uint32_t* next) const {
    const Tile kernel = kind == Kind::INT8       ? tile_of<Int8>(x.tile)
                        : kind == Kind::BFLOAT16 ? tile_of<BFloat16>(x.tile)
                                                 : tile_of<Float32>(x.tile);
    const int total = words();
    for (int k = 0; k < total; k += BLOCK_WORDS) {
      const int part = std::min(BLOCK_WORDS, total - k);
      const uint32_t* weights = panel(index) + size_t(k) * PANEL;
      const uint32_t* later = k + part < total ? weights + size_t(part) * PANEL : next;
      if (kind == Kind::INT4) {
        unpack_int4(panel(index), k, part, block);
        weights = reinterpret_cast<const uint32_t*>(block);
      }
      if (count == 1) {
        // Alone, a tile reads its block as fast as memory gives it: it fetches a little ahead.
        const int near = std::max(0, part - AHEAD_WORDS);
        const uint32_t* input = x.at(first) + size_t(k) * x.tile;
        kernel(input, weights, near, sums, k == 0, ahead(weights + size_t(part - near) * PANEL, 1));
        kernel(input + size_t(near) * x.tile, weights + size_t(near) * PANEL, part - near, sums,
               k == 0 && !near, ahead(later, 1));
        continue;
      }
      for (int t = 0; t < count; t++)
        kernel(x.at(first + t) + size_t(k) * x.tile, weights, part,
               sums + size_t(t) * x.tile * PANEL, k == 0,
               ahead(later + size_t(t) * part * PANEL / count, count));
    }
    finish(index, x, first, count, sums);
  }

 private:
  // Several tiles share a block: meanwhile they fetch the next one, each its part.
  static Ahead ahead(const uint32_t* weights, int shared) {
    return {reinterpret_cast<const char*>(weights), 4 * PANEL / shared};
  }

  static constexpr int GROUP_WORDS = (1 + GROUP / 8) * PANEL;

  size_t panel_words() const {
    if (kind == Kind::INT4) return size_t((inputs + GROUP - 1) / GROUP) * GROUP_WORDS;
    return size_t(words()) * PANEL;
  }

  void pack_int8(int column, const float* row, uint32_t* to) {
    float top = 1e-12f;
    for (int k = 0; k < inputs; k++) top = std::max(top, std::fabs(row[k]));
    scales_[column] = top / 127.0f;
    int total = 0;
    for (int k = 0; k < inputs; k++) {
      const int value = std::lrintf(row[k] * (127.0f / top));
      total += value;
      to[size_t(k / 4) * PANEL] |= static_cast<uint32_t>(value & 255) << (k % 4 * 8);
    }
    offsets_[column] = -128 * total;  // takes back what the inputs' zero at 128 added
  }

  static void pack_int4(const float* row, int count, uint32_t* to) {
    const auto [low, high] = std::minmax_element(row, row + count);
    const uint32_t minimum = bf16_bits(*low);
    const uint32_t scale = bf16_bits(std::max((*high - *low) / 15.0f, 1e-12f));
    to[0] = minimum | scale << 16;
    for (int k = 0; k < count; k++) {
      const float steps = (row[k] - bf16_value(minimum)) / bf16_value(scale);
      const int value = std::clamp(static_cast<int>(std::lrintf(steps)), 0, 15);
      to[(1 + k / 8) * PANEL] |= static_cast<uint32_t>(value) << (k % 8 * 4);
    }
  }

  static void unpack_int4(const uint32_t* panel, int first, int count, float* to) {
    static_assert(BLOCK_WORDS % GROUP == 0);
    for (int k = 0; k < count; k += GROUP) {
      const uint32_t* group = panel + (first + k) / GROUP * GROUP_WORDS;
      for (int half = 0; half < 2; half++, group += W) {
        const Words header = load<Words>(group);
        const Floats low = std::bit_cast<Floats>(header << 16);
        const Floats scale = std::bit_cast<Floats>(header & 0xffff0000u);
        // The last group may be short; the block has room for all of it.
        for (int j = 0; j < GROUP; j += 8) {
          const Words eight = load<Words>(group + (1 + j / 8) * PANEL);
#pragma GCC unroll 8
          for (int i = 0; i < 8; i++) {
            const Floats steps = __builtin_convertvector((Ints)(eight >> (4 * i) & 15), Floats);
            store(to + size_t(k + j + i) * PANEL + half * W, low + steps * scale);
          }
        }
      }
    }
  }

  void finish(int panel, const Inputs& x, int first, int count, float* sums) const {
    if (kind != Kind::INT8 && !biased_) return;
    const size_t column = size_t(panel) * PANEL;
    for (int row = 0; row < count * x.tile; row++, sums += PANEL)
      for (int half = 0; half < PANEL; half += W) {
        Floats value = load<Floats>(sums + half);
        if (kind == Kind::INT8) {
          const Ints whole = std::bit_cast<Ints>(value) + load<Ints>(&offsets_[column + half]);
          value = __builtin_convertvector(whole, Floats) * load<Floats>(&scales_[column + half]) *
                  x.scales.as<float>()[first * x.tile + row];
        }
        store(sums + half, value + load<Floats>(&bias_[column + half]));
      }
  }

  Memory data_;
  bool biased_ = false;
  std::vector<float> bias_, scales_;
  std::vector<int32_t> offsets_;
};

// ---------------------------------------------------------------------------------- attention

constexpr int CHUNK = 64;       // KV slots that are scored before they are weighed
constexpr int MANY_ROWS = 128;  // queries of a task, that share what was packed

// The queries of a task: `tokens` tokens of a sequence, `group` heads each, that share a KV head.
struct Queries {
  const float* query;  // of the first token and head
  float* out;
  int tokens, group, head_dim;
  size_t query_stride, out_stride;  // from token to token
  int first_position, window;  // window: positions that a token sees, 0 for all
  float scale, cap;  // of scores; cap: 0 for none

  int rows() const { return tokens * group; }
  const float* of(int row) const { return query + row / group * query_stride + row % group * head_dim; }
  float* to(int row) const { return out + row / group * out_stride + row % group * head_dim; }
  // A row sees positions [from, sees).
  int sees(int row) const { return first_position + row / group + 1; }
  int from(int row) const { return window ? std::max(0, sees(row) - window) : 0; }
  int begin() const { return from(0) / CHUNK * CHUNK; }  // chunks lie where they lie for everyone
  int total() const { return sees(rows() - 1); }
};

// Slots of a chunk: how many, and where they lie.
struct Slots {
  int count = 0;
  size_t at[CHUNK];
};

// Where a sequence's KV for one KV head lies in the slot-major pool.
template <class T>
struct Cache {
  const T *keys, *values;
  const int32_t* blocks;
  int block_size;
  size_t stride;  // from slot to slot

  // The slots of the chunk that begins at position `start`, up to `total` positions.
  Slots slots(int start, int total) const {
    Slots found;
    found.count = std::min(CHUNK, total - start);
    int block = start / block_size, offset = start % block_size;
    for (int c = 0; c < found.count; block++, offset = 0) {
      size_t at = (size_t(blocks[block]) * block_size + offset) * stride;
      for (; offset < block_size && c < found.count; offset++, at += stride) found.at[c++] = at;
    }
    return found;
  }
};

// Running maximum and sum of a row's softmax; returns what earlier results must be scaled with.
struct Softmax {
  float top = -INFINITY, total = 0;

  // scores[CHUNK] become weights; those outside [from, seen) are zero. One at least must be inside.
  float absorb(float* scores, int from, int seen) {
    for (int c = 0; c < from; c++) scores[c] = -INFINITY;
    for (int c = seen; c < CHUNK; c++) scores[c] = -INFINITY;
    Floats high = load<Floats>(scores);
    for (int c = W; c < CHUNK; c += W) high = max(high, load<Floats>(scores + c));
    const float now = std::max(top, largest(high));
    const float keep = std::exp(top - now);
    Floats added = {};
    for (int c = 0; c < CHUNK; c += W) {
      const Floats raw = load<Floats>(scores + c);
      const Floats weight = raw == all(-INFINITY) ? Floats{} : exp(raw - now);
      added += weight;
      store(scores + c, weight);
    }
    total = total * keep + sum(added);
    top = now;
    return keep;
  }
};

// A chunk's keys and values are packed as panels, and scores and outputs are products of tiles, as
// in a linear layer. Decoding takes the same way, though packing costs it as much as it gains: so a
// token's numbers are the same to the last bit, whatever is computed with it. A request that is
// resumed elsewhere, preempted, or cut into other chunks gives the tokens it would have given.
class Attention {
 public:
  static size_t scratch_bytes(int head_dim, int rows) {
    const size_t wide = padded(head_dim), high = rows + MAX_TILE;
    return 4 * (CHUNK * (head_dim + 2 * wide) + high * (head_dim + wide + 2) + MAX_TILE * CHUNK) + 1024;
  }

  // `next` is what this thread will probably turn to after this: its KV is fetched meanwhile.
  template <class T>
  static void attend(const Queries& q, const Cache<T>& cache, const Queries& next,
                     const Cache<T>& next_cache, float* scratch) {
    Attention(q, scratch).run(q, cache, next, next_cache);
  }

 private:
  static int padded(int head_dim) { return (head_dim + PANEL - 1) / PANEL * PANEL; }

  Attention(const Queries& q, float* scratch) : dim_(q.head_dim), wide_(padded(q.head_dim)) {
    tile_ = tile_rows(q.rows());
    tiles_ = (q.rows() + tile_ - 1) / tile_;
    auto take = [&](size_t count) { return std::exchange(scratch, scratch + (count + 15) / 16 * 16); };
    keys_ = take(size_t(CHUNK) * dim_);               // [CHUNK / PANEL][dim][PANEL]
    values_ = take(size_t(CHUNK) * wide_);            // [wide / PANEL][CHUNK][PANEL]
    queries_ = take(size_t(tiles_) * dim_ * tile_);   // [tile][dim][row]
    outputs_ = take(size_t(tiles_) * tile_ * wide_);  // [tile][wide / PANEL][row][PANEL]
    scores_ = take(size_t(tile_) * CHUNK);            // [row][CHUNK]: of a tile; then its weights
    states_ = reinterpret_cast<Softmax*>(take(2 * size_t(tiles_) * tile_));
  }

  template <class T>
  void run(const Queries& q, const Cache<T>& cache, const Queries& next, const Cache<T>& next_cache) {
    begin(q);
    const int total = q.total();
    Slots slots = cache.slots(q.begin(), total);
    for (int start = q.begin(); start < total; start += CHUNK) {
      const bool last = start + CHUNK >= total;
      const Cache<T>& later = last ? next_cache : cache;
      const Slots later_slots = last ? later.slots(next.begin(), next.total()) : later.slots(start + CHUNK, total);
      pack_keys(cache.keys, slots, later.keys, later_slots);
      pack_values(cache.values, slots, later.values, later_slots);
      for (int t = 0; t < tiles_; t++) absorb(q, t, start, slots.count);
      slots = later_slots;
    }
    finish(q);
  }

  void begin(const Queries& q) {
    for (int row = 0; row < tiles_ * tile_; row++) {
      float* to = queries_ + size_t(row / tile_) * dim_ * tile_ + row % tile_;
      const float* from = q.of(std::min(row, q.rows() - 1));
      for (int d = 0; d < dim_; d++) to[d * tile_] = from[d] * q.scale;
      states_[row] = Softmax{};
    }
    std::fill(outputs_, outputs_ + size_t(tiles_) * tile_ * wide_, 0.0f);
  }

  // keys_[slot / PANEL][d][slot % PANEL]: transposed. Slots behind the last are never looked at.
  // What comes later is fetched line by line, so that memory never has too much to do, nor nothing.
  template <class T>
  void pack_keys(const T* keys, const Slots& slots, const T* later, const Slots& later_slots) {
    for (int c = 0; c < slots.count; c += W) {
      float* to = keys_ + size_t(c / PANEL) * dim_ * PANEL + c % PANEL;
      const T* row[W];
      for (int i = 0; i < W; i++) row[i] = keys + slots.at[std::min(c + i, slots.count - 1)];
      int d = 0;
      for (; d + W <= dim_; d += W) {
        Floats rows[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) rows[i] = load_floats(row[i] + d);
        if (d % LINE<T> == 0) fetch(later, later_slots, c, d);
        transpose(rows, std::make_integer_sequence<int, W>());
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) store(to + (d + i) * PANEL, rows[i]);
      }
      for (; d < dim_; d++)
        for (int i = 0; i < W; i++) to[d * PANEL + i] = value_of(row[i][d]);
    }
  }

  template <class T>
  static constexpr int LINE = 64 / sizeof(T);

  // Fetch one line of each of W slots.
  template <class T>
  static void fetch(const T* from, const Slots& slots, int first, int d) {
    const int end = std::min(first + W, slots.count);
    for (int c = first; c < end; c++) __builtin_prefetch(from + slots.at[c] + d);
  }

  // values_[d / PANEL][slot][d % PANEL]; columns behind the last are never looked at. Slots are read
  // side by side like the keys: a processor fetches many short streams faster than one long one.
  template <class T>
  void pack_values(const T* values, const Slots& slots, const T* later, const Slots& later_slots) {
    for (int first = 0; first < slots.count; first += W) {
      const int end = std::min(first + W, slots.count);
      int d = 0;
      for (; d + W <= dim_; d += W) {
        if (d % LINE<T> == 0) fetch(later, later_slots, first, d);
        float* to = value_at(first, d);
        for (int c = first; c < end; c++, to += PANEL) store(to, load_floats(values + slots.at[c] + d));
      }
      for (; d < dim_; d++)
        for (int c = first; c < end; c++) *value_at(c, d) = value_of(values[slots.at[c] + d]);
    }
  }

  float* value_at(int c, int d) const {
    return values_ + (size_t(d / PANEL) * CHUNK + c) * PANEL + d % PANEL;
  }

  void absorb(const Queries& q, int t, int start, int count) {
    if (q.sees(std::min((t + 1) * tile_, q.rows()) - 1) <= start) return;  // all of it is ahead
    if (q.from(t * tile_) >= start + CHUNK) return;                        // or out of sight
    const Tile score = tile_of<Float32>(tile_), weigh = tile_of<Float32, CHUNK>(tile_);
    const auto* query = reinterpret_cast<uint32_t*>(queries_ + size_t(t) * dim_ * tile_);
    float* out = outputs_ + size_t(t) * tile_ * wide_;
    for (int p = 0; p * PANEL < count; p++) {
      alignas(64) float part[MAX_TILE * PANEL];
      score(query, reinterpret_cast<uint32_t*>(keys_ + size_t(p) * dim_ * PANEL), dim_, part, true, here());
      for (int r = 0; r < tile_; r++)
        std::memcpy(scores_ + r * CHUNK + p * PANEL, part + r * PANEL, PANEL * 4);
    }
    for (int r = 0; r < tile_; r++) weigh_row(q, t * tile_ + r, r, start, out);
    for (int p = 0; p < wide_ / PANEL; p++)
      weigh(reinterpret_cast<uint32_t*>(scores_),
            reinterpret_cast<uint32_t*>(values_ + size_t(p) * CHUNK * PANEL), count,
            out + size_t(p) * tile_ * PANEL, false, here());
  }

  // Nothing to fetch: keys and values were packed a moment ago.
  Ahead here() const { return {reinterpret_cast<const char*>(keys_), 0}; }

  void weigh_row(const Queries& q, int row, int r, int start, float* out) {
    const int seen = row < q.rows() ? std::min(CHUNK, q.sees(row) - start) : 0;
    const int from = row < q.rows() ? std::max(0, q.from(row) - start) : 0;
    float* scores = scores_ + r * CHUNK;
    if (seen <= from) {
      std::fill(scores, scores + CHUNK, 0.0f);
      return;
    }
    if (q.cap > 0)
      for (int c = 0; c < CHUNK; c += W) store(scores + c, capped(load<Floats>(scores + c), q.cap));
    const float keep = states_[row].absorb(scores, from, seen);
    if (keep != 1.0f)
      for (int p = 0; p < wide_ / PANEL; p++)
        for (int d = 0; d < PANEL; d++) out[(size_t(p) * tile_ + r) * PANEL + d] *= keep;
  }

  void finish(const Queries& q) {
    for (int row = 0; row < q.rows(); row++) {
      float* from = outputs_ + size_t(row / tile_) * tile_ * wide_ + row % tile_ * PANEL;
      float* to = q.to(row);
      for (int d = 0; d < dim_; d += PANEL, from += size_t(tile_) * PANEL) {
        for (int half = 0; half < PANEL; half += W)
          store(from + half, load<Floats>(from + half) / states_[row].total);
        copy(from, std::min(PANEL, dim_ - d), to + d);
      }
    }
  }

  int dim_, wide_, tile_ = 1, tiles_ = 1;
  float *keys_, *values_, *queries_, *outputs_, *scores_;
  Softmax* states_;
};

// ---------------------------------------------------------------------------------- decoder

}  // namespace

extern "C" {

// Mirrored in library.py, field by field.
struct PenstockShape {
  int32_t vocab, hidden, inner, layers, heads, kv_heads, head_dim, block_size, qk_norm, kv_bf16, threads, gelu;
  float eps, embedding_scale, query_scale, score_cap;  // score_cap: 0 for none
};

struct PenstockLayer {
  const float *input_norm, *mlp_norm;
  const float *query_key_norm, *attention_post_norm, *mlp_post_norm;  // null where there is none
  const float *cos, *sin;                                             // [positions][head_dim]
  void *keys, *values;  // the pool: [slots][kv_heads][head_dim]
  int32_t window;       // positions that a token sees, 0 for all
};

struct PenstockStep {
  int32_t rows, sequences, outputs, block_columns;
  const int32_t *tokens, *positions;         // [rows]
  const int32_t *first_row, *count, *computed;  // [sequences]
  const int32_t* blocks;                     // [sequences][block_columns]
  const int32_t* adapters;                   // [sequences], -1 for none; null where there are none
  const int32_t* output_rows;                // [outputs], ascending
  int32_t* greedy;                           // [outputs], the likeliest token
  float* logits;                             // [outputs][vocab], or null where only greedy is wanted
};

}  // extern "C"

namespace {

// Longer steps are computed in parts, so that buffers stay small and near: whole blocks of whole
// tiles, about a thousand rows.
constexpr int PASS_ROWS = 1024 / (BLOCK_TILES * MAX_TILE) * BLOCK_TILES * MAX_TILE;

struct Layer : PenstockLayer {
  Linear qkv, output, gate, up, down;

  Linear& linear(int which) {
    Linear* all[] = {&qkv, &output, &gate, &up, &down};
    return *all[which];
  }
};

struct Piece {  // of a sequence, within a pass
  int sequence, row, tokens, position;
};

struct AttentionTask {
  int sequence, row, tokens, position, kv_head;
};

struct Best {
  float value;
  int32_t token;
};

}  // namespace

struct PenstockDecoder {
  explicit PenstockDecoder(const PenstockShape& of)
      : shape(of), layers(of.layers), team(of.threads), scratch(of.threads), best(of.threads) {
    const size_t sums = size_t{4} * BLOCK_TILES * MAX_TILE * PANEL;
    const size_t block = size_t{4} * BLOCK_WORDS * PANEL;
    const size_t normed = size_t{4} * MAX_TILE * of.hidden;
    const size_t group = of.heads / of.kv_heads;
    const size_t attention = Attention::scratch_bytes(of.head_dim, std::max<size_t>(MANY_ROWS, group));
    for (auto& memory : scratch) memory.reserve(std::max({2 * sums + block, normed, attention}));
  }

  void step(const PenstockStep& asked) {
    outputs.reserve(size_t{4} * std::max(1, asked.outputs) * shape.hidden);
    int done = 0;
    for (int first = 0; first < asked.rows; first += PASS_ROWS) {
      const int rows = std::min(PASS_ROWS, asked.rows - first);
      plan(asked, first, rows);
      auto work = [&](int thread) { pass(asked, first, rows, thread); };
      team.run(work);
      for (; done < asked.outputs && asked.output_rows[done] < first + rows; done++)
        std::memcpy(outputs.as<float>() + size_t(done) * shape.hidden,
                    x.as<float>() + size_t(asked.output_rows[done] - first) * shape.hidden,
                    size_t{4} * shape.hidden);
    }
    if (!asked.outputs) return;
    for (auto& mine : best) mine.assign(asked.outputs, Best{-INFINITY, 0});
    auto work = [&](int thread) { finish(asked, thread); };
    packed.shape(head.kind, asked.outputs, shape.hidden);
    team.run(work);
    for (int row = 0; row < asked.outputs; row++) asked.greedy[row] = likeliest(row);
  }

  const PenstockShape shape;
  const void* embedding = nullptr;
  bool embedding_bf16 = false;
  const float* norm = nullptr;
  std::vector<Layer> layers;
  Linear head;
  Team team;
  int most_ranks = 0;  // of a reduction

 private:
  int query_width() const { return shape.heads * shape.head_dim; }
  int kv_width() const { return shape.kv_heads * shape.head_dim; }
  int qkv_width() const { return query_width() + 2 * kv_width(); }

  // Cut the sequences to the rows of a pass, and their attention into tasks.
  void plan(const PenstockStep& asked, int first, int rows) {
    x.reserve(size_t{4} * rows * shape.hidden);
    qkv.reserve(size_t{4} * rows * qkv_width());
    attended.reserve(size_t{4} * rows * query_width());
    inner.reserve(size_t{4} * rows * std::max(shape.inner, shape.hidden));
    pieces.clear();
    tasks.clear();
    adapted.clear();
    if (asked.adapters) {
      adapter_of.assign(rows, -1);
      reduced.reserve(size_t{4} * rows * most_ranks);
    }
    for (int s = 0; s < asked.sequences; s++) {
      const int from = std::max(first, asked.first_row[s]);
      const int to = std::min(first + rows, asked.first_row[s] + asked.count[s]);
      if (from >= to) continue;
      const int position = asked.computed[s] + from - asked.first_row[s];
      pieces.push_back({s, from - first, to - from, position});
      if (asked.adapters && asked.adapters[s] >= 0)
        for (int row = from - first; row < to - first; row++) {
          adapter_of[row] = asked.adapters[s];
          adapted.push_back(row);
        }
      plan_attention(pieces.back());
    }
  }

  void plan_attention(const Piece& piece) {
    const int group = shape.heads / shape.kv_heads;
    const int most = std::max(1, MANY_ROWS / group);
    for (int token = 0; token < piece.tokens; token += most)
      for (int head = 0; head < shape.kv_heads; head++)
        tasks.push_back({piece.sequence, piece.row + token, std::min(most, piece.tokens - token),
                         piece.position + token, head});
  }

  // x += what the packed rows give, normed first where the model does that.
  void add(const Linear& linear, const float* post_norm, int rows, int thread) {
    if (!post_norm) {
      product(linear, thread, [this](int row, int column, int count, const float* y) {
        float* to = x.as<float>() + size_t(row) * shape.hidden + column;
        for (int i = 0; i < count; i++) to[i] += y[i];
      });
      return;
    }
    float* found = inner.as<float>();  // free: its rows are packed, or not yet there
    product(linear, thread, [&](int row, int column, int count, const float* y) {
      copy(y, count, found + size_t(row) * shape.hidden + column);
    });
    team.each(rows, [&](int row) {
      float *from = found + size_t(row) * shape.hidden, *to = x.as<float>() + size_t(row) * shape.hidden;
      norm_row(from, post_norm, shape.hidden, from);
      for (int i = 0; i < shape.hidden; i++) to[i] += from[i];
    });
  }

  // What every thread of the team does in a pass. Buffers are shaped by all with the same values.
  void pass(const PenstockStep& asked, int first, int rows, int thread) {
    team.each(rows, [&](int row) { embed(asked.tokens[first + row], row); });
    for (Layer& layer : layers) {
      normed(x.as<float>(), layer.input_norm, layer.qkv.kind, rows, thread);
      reduce(layer.qkv, x.as<float>(), layer.input_norm, thread);
      product(layer.qkv, thread, [&](int row, int column, int count, const float* y) {
        copy(y, count, qkv.as<float>() + size_t(row) * qkv_width() + column);
      });
      team.each(pieces.size(), [&](int piece) { place(layer, asked, pieces[piece], first); });
      team.each(tasks.size(), [&](int task) { attend(layer, asked, task, thread); });
      pack(attended.as<float>(), query_width(), layer.output.kind, rows);
      reduce(layer.output, attended.as<float>(), nullptr, thread);
      add(layer.output, layer.attention_post_norm, rows, thread);
      normed(x.as<float>(), layer.mlp_norm, layer.gate.kind, rows, thread);
      reduce(layer.gate, x.as<float>(), layer.mlp_norm, thread);
      gated(layer, thread);
      pack(inner.as<float>(), shape.inner, layer.down.kind, rows);
      reduce(layer.down, inner.as<float>(), nullptr, thread);
      add(layer.down, layer.mlp_post_norm, rows, thread);
    }
  }

  void embed(int token, int row) {
    float* to = x.as<float>() + size_t(row) * shape.hidden;
    const size_t from = size_t(token) * shape.hidden;
    for (int i = 0; i < shape.hidden; i++)
      to[i] = shape.embedding_scale * (embedding_bf16
                                           ? bf16_value(static_cast<const uint16_t*>(embedding)[from + i])
                                           : static_cast<const float*>(embedding)[from + i]);
  }

  // packed = the rows of `from`, RMS-normed (Zhang & Sennrich, 2019).
  void normed(const float* from, const float* weight, Kind kind, int rows, int thread) {
    const int width = shape.hidden;
    float* tile = scratch[thread].as<float>();
    shape_inputs(kind, rows, width);
    team.each(packed.tiles(), [&](int t) {
      const int first = t * packed.tile, count = std::min(packed.tile, rows - first);
      for (int r = 0; r < count; r++)
        norm_row(from + size_t(first + r) * width, weight, width, tile + size_t(r) * width);
      packed.pack(t, tile, width, width);
    });
  }

  void pack(const float* from, int width, Kind kind, int rows) {
    shape_inputs(kind, rows, width);
    team.each(packed.tiles(), [&](int t) {
      packed.pack(t, from + size_t(t) * packed.tile * width, width, width);
    });
  }

  // One thread shapes the buffer; the barrier shows it to the others.
  void shape_inputs(Kind kind, int rows, int width) {
    team.each(1, [&](int) { packed.shape(kind, rows, width); });
  }

  void norm_row(const float* from, const float* weight, int width, float* to) const {
    const float scale = 1.0f / std::sqrt(dot(from, from, width) / width + shape.eps);
    for (int i = 0; i < width; i++) to[i] = from[i] * scale * weight[i];
  }

  // Multiply the packed rows; `emit(row, column, count, values)` takes what comes out.
  template <class F>
  void product(const Linear& linear, int thread, F emit) {
    const int blocks = (packed.tiles() + BLOCK_TILES - 1) / BLOCK_TILES;
    team.each(blocks * linear.panels(), [&](int task) {
      const int panel = task % linear.panels(), first = task / linear.panels() * BLOCK_TILES;
      const int count = std::min(BLOCK_TILES, packed.tiles() - first);
      float* sums = scratch[thread].as<float>();
      linear.multiply(panel, packed, first, count, sums, block_of(thread),
                      linear.panel(panel + team.size()));
      const int columns = std::min(PANEL, linear.outputs - panel * PANEL);
      const int end = std::min((first + count) * packed.tile, packed.rows);
      for (int row = first * packed.tile; row < end; row++, sums += PANEL) {
        expand(linear, row, panel, sums);
        emit(row, panel * PANEL, columns, sums);
      }
    });
  }

  // inner = act(x G') * (x U'), both products in one task, so that neither is ever stored.
  void gated(const Layer& layer, int thread) {
    const int panels = layer.gate.panels();
    const int blocks = (packed.tiles() + BLOCK_TILES - 1) / BLOCK_TILES;
    team.each(blocks * panels, [&](int task) {
      const int panel = task % panels, first = task / panels * BLOCK_TILES;
      const int count = std::min(BLOCK_TILES, packed.tiles() - first);
      float* gate = scratch[thread].as<float>();
      float* up = gate + BLOCK_TILES * MAX_TILE * PANEL;
      layer.gate.multiply(panel, packed, first, count, gate, block_of(thread), layer.up.panel(panel));
      layer.up.multiply(panel, packed, first, count, up, block_of(thread),
                        layer.gate.panel(panel + team.size()));
      const int columns = std::min(PANEL, shape.inner - panel * PANEL);
      const int end = std::min((first + count) * packed.tile, packed.rows);
      for (int row = first * packed.tile; row < end; row++, gate += PANEL, up += PANEL) {
        expand(layer.gate, row, panel, gate);
        expand(layer.up, row, panel, up);
        for (int half = 0; half < PANEL; half += W) {
          const Floats g = load<Floats>(gate + half);
          const Floats active = shape.gelu ? gelu(g) : g / (1.0f + exp(-g));
          store(gate + half, active * load<Floats>(up + half));
        }
        copy(gate, columns, inner.as<float>() + size_t(row) * shape.inner + panel * PANEL);
      }
    });
  }

  // A x of the rows that have an adapter, for a layer and those that share its input, which is
  // normed first where it is when the layer gets it.
  void reduce(const Linear& linear, const float* from, const float* weight, int thread) {
    if (adapted.empty() || linear.reductions.empty()) return;
    const int parts = (most_ranks + RANKS - 1) / RANKS, inputs = linear.inputs;
    team.each(adapted.size() * parts, [&](int task) {
      const int row = adapted[task / parts], first = task % parts * RANKS;
      const size_t adapter = adapter_of[row];
      if (adapter >= linear.reductions.size()) return;
      const Reduction& reduction = linear.reductions[adapter];
      if (first >= reduction.rank) return;
      const float* values = from + size_t(row) * inputs;
      if (weight) {
        float* normed_row = scratch[thread].as<float>();
        norm_row(values, weight, inputs, normed_row);
        values = normed_row;
      }
      reduction.apply(values, inputs, first, std::min(RANKS, reduction.rank - first), reduced_of(row));
    });
  }

  // Add what a row's adapter gives to a panel of its sums.
  void expand(const Linear& linear, int row, int panel, float* sums) const {
    if (linear.expansions.empty() || adapted.empty()) return;
    const size_t adapter = adapter_of[row];  // -1 becomes the largest of all
    if (adapter >= linear.expansions.size()) return;
    for (const Expansion& expansion : linear.expansions[adapter])
      expansion.apply(reduced_of(row), panel, sums);
  }

  float* reduced_of(int row) const { return reduced.as<float>() + size_t(row) * most_ranks; }

  float* block_of(int thread) const {
    return scratch[thread].as<float>() + 2 * BLOCK_TILES * MAX_TILE * PANEL;
  }

  // Rotate a piece's queries and keys, and store its keys and values in the pool.
  void place(const Layer& layer, const PenstockStep& asked, const Piece& piece, int) {
    const int32_t* blocks = asked.blocks + size_t(piece.sequence) * asked.block_columns;
    for (int t = 0; t < piece.tokens; t++) {
      const int position = piece.position + t;
      float* row = qkv.as<float>() + size_t(piece.row + t) * qkv_width();
      for (int h = 0; h < shape.heads + shape.kv_heads; h++)
        rotate(layer, row + h * shape.head_dim, h, position);
      const size_t slot = size_t(blocks[position / shape.block_size]) * shape.block_size +
                          position % shape.block_size;
      keep(layer.keys, slot, row + query_width());
      keep(layer.values, slot, row + query_width() + kv_width());
    }
  }

  void rotate(const Layer& layer, float* head, int index, int position) const {
    const int dim = shape.head_dim, half = dim / 2;
    if (layer.query_key_norm) norm_row(head, layer.query_key_norm + size_t(index) * dim, dim, head);
    const float* c = layer.cos + size_t(position) * dim;
    const float* s = layer.sin + size_t(position) * dim + half;  // the table's first half is negated
    for (int i = 0; i < half; i++) {
      const float a = head[i], b = head[i + half];
      head[i] = a * c[i] - b * s[i];
      head[i + half] = b * c[i] + a * s[i];
    }
  }

  void keep(void* pool, size_t slot, const float* from) const {
    const size_t at = slot * kv_width();
    if (!shape.kv_bf16) {
      std::memcpy(static_cast<float*>(pool) + at, from, size_t{4} * kv_width());
      return;
    }
    for (int i = 0; i < kv_width(); i++) put(static_cast<uint16_t*>(pool) + at + i, from[i]);
  }

  void attend(const Layer& layer, const PenstockStep& asked, int task, int thread) {
    if (shape.kv_bf16)
      attend_as<uint16_t>(layer, asked, task, thread);
    else
      attend_as<float>(layer, asked, task, thread);
  }

  template <class T>
  void attend_as(const Layer& layer, const PenstockStep& asked, int index, int thread) {
    const AttentionTask& task = tasks[index];
    const AttentionTask& next = tasks[std::min<int>(index + team.size(), tasks.size() - 1)];
    Attention::attend(queries_of(layer, task), cache_of<T>(layer, asked, task), queries_of(layer, next),
                      cache_of<T>(layer, asked, next), scratch[thread].as<float>());
  }

  Queries queries_of(const Layer& layer, const AttentionTask& task) const {
    const int group = shape.heads / shape.kv_heads, dim = shape.head_dim;
    const size_t head = size_t(task.kv_head) * group * dim;
    return {qkv.as<float>() + size_t(task.row) * qkv_width() + head,
            attended.as<float>() + size_t(task.row) * query_width() + head,
            task.tokens, group, dim, size_t(qkv_width()), size_t(query_width()),
            task.position, layer.window, shape.query_scale, shape.score_cap};
  }

  template <class T>
  Cache<T> cache_of(const Layer& layer, const PenstockStep& asked, const AttentionTask& task) const {
    const size_t offset = size_t(task.kv_head) * shape.head_dim;
    return {static_cast<const T*>(layer.keys) + offset, static_cast<const T*>(layer.values) + offset,
            asked.blocks + size_t(task.sequence) * asked.block_columns, shape.block_size, size_t(kv_width())};
  }

  // The head: logits where they are wanted, and each row's likeliest token.
  void finish(const PenstockStep& asked, int thread) {
    normed(outputs.as<float>(), norm, head.kind, asked.outputs, thread);
    Best* mine = best[thread].data();
    product(head, thread, [&](int row, int column, int count, const float* y) {
      if (asked.logits)
        copy(y, count, asked.logits + size_t(row) * shape.vocab + column);
      Floats high = load<Floats>(y);
      if (count == PANEL && largest(max(high, load<Floats>(y + W))) <= mine[row].value) return;
      for (int i = 0; i < count; i++)
        if (y[i] > mine[row].value) mine[row] = {y[i], column + i};
    });
  }

  int32_t likeliest(int row) const {  // among equals the first, as everywhere
    Best found = best[0][row];
    for (const auto& theirs : best) {
      const Best& other = theirs[row];
      if (other.value > found.value || (other.value == found.value && other.token < found.token))
        found = other;
    }
    return found.token;
  }

  std::vector<Memory> scratch;             // per thread
  std::vector<std::vector<Best>> best;     // per thread, per output row
  Memory x, qkv, attended, inner, outputs;  // rows of a pass
  Inputs packed;
  std::vector<Piece> pieces;
  std::vector<AttentionTask> tasks;
  std::vector<int> adapted;     // rows of a pass that have an adapter
  std::vector<int> adapter_of;  // by row; of use where there are adapted rows
  Memory reduced;               // [rows][most_ranks]
};

// ---------------------------------------------------------------------------------- interface

extern "C" {

PenstockDecoder* penstock_create(const PenstockShape* shape) {
  try {
    return new PenstockDecoder(*shape);
  } catch (const std::exception&) {
    return nullptr;
  }
}

void penstock_destroy(PenstockDecoder* decoder) { delete decoder; }

// The caller keeps these arrays alive.
void penstock_set_tables(PenstockDecoder* decoder, const void* embedding, int32_t embedding_bf16,
                         const float* norm) {
  decoder->embedding = embedding;
  decoder->embedding_bf16 = embedding_bf16;
  decoder->norm = norm;
}

void penstock_set_layer(PenstockDecoder* decoder, int32_t layer, const PenstockLayer* of) {
  static_cast<PenstockLayer&>(decoder->layers[layer]) = *of;
}

// Pack a float32 weight [outputs][inputs]; `which` is qkv, output, gate, up, down, or -1: the head.
int32_t penstock_set_linear(PenstockDecoder* decoder, int32_t layer, int32_t which, int32_t kind,
                            int32_t outputs, int32_t inputs, const float* weight, const float* bias) {
  Linear* to = which < 0 ? &decoder->head : &decoder->layers[layer].linear(which);
  try {
    to->shape(static_cast<Kind>(kind), outputs, inputs);
  } catch (const std::exception&) {
    return 1;
  }
  if (bias) to->set_bias(bias);
  auto work = [&](int) {
    decoder->team.each(to->panels(), [&](int panel) { to->pack(panel, weight); });
  };
  decoder->team.run(work);
  return 0;
}

// Adapter `adapter` multiplies the inputs of a layer with `a`, [rank][inputs], which the caller keeps
// alive; that of gate is for up, too.
int32_t penstock_set_reduction(PenstockDecoder* decoder, int32_t layer, int32_t which, int32_t adapter,
                               int32_t rank, const float* a) {
  try {
    std::vector<Reduction>& all = decoder->layers[layer].linear(which).reductions;
    all.resize(std::max<size_t>(all.size(), adapter + 1));
    all[adapter] = {a, rank};
    decoder->most_ranks = std::max(decoder->most_ranks, rank);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

// ... and adds ranks [at, at + rank) of that, times `b`, [outputs][rank], to outputs from `first` on.
int32_t penstock_add_expansion(PenstockDecoder* decoder, int32_t layer, int32_t which, int32_t adapter,
                               int32_t at, int32_t rank, int32_t first, int32_t outputs, const float* b) {
  try {
    std::vector<std::vector<Expansion>>& all = decoder->layers[layer].linear(which).expansions;
    all.resize(std::max<size_t>(all.size(), adapter + 1));
    all[adapter].emplace_back(at, rank, first, outputs, b);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

int32_t penstock_step(PenstockDecoder* decoder, const PenstockStep* step) {
  try {
    decoder->step(*step);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // extern "C"
