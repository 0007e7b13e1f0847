// Maps, reductions and checks over the entries of A on a GPU.
//
// An edge function computes what an operation needs of one entry a = A_ij, as on the CPU. A map
// writes one number for each entry. A reduction adds what each entry contributes to the outputs at
// i, to the outputs at j, and to scalars.
//
// A row i visits the entries lo[i] <= p < hi[i]. Entry p of a dense A is (p / k, p % k).
//
// No sum uses atomic operations. Each partial sum belongs to a part of A that its size alone
// determines, and partial sums are added in a fixed order. So the bits depend on A alone.
//
// Template arguments: TA, TX and TY are the types of A, of x, and of what is aligned with A.

typedef long long I64;

constexpr int WARP = 32, THREADS = 256, WARPS = THREADS / WARP;
constexpr int OWN = 4;                  // columns of a tile that one thread has
constexpr int COLUMNS = OWN * THREADS;  // columns of a tile
constexpr int MOST_ROWS = 256;          // rows of a tile, at most
constexpr int SIDE = 32;                // rows and columns of a tile that is compared
constexpr unsigned ALL = 0xffffffffu;

// How the numbers beside A are numbered: as entries of A, as rows of J, or as places (i, j).
enum { BY_ENTRY, BY_ROW, BY_PLACE };

__device__ inline I64 place_of(int by, I64 p, I64 i, I64 j, const I64 *lo, const I64 *first,
                               I64 width) {
  if (by == BY_ENTRY) return p;
  return by == BY_ROW ? first[i] + p - lo[i] : i * width + j;
}

// The larger of two numbers, or NaN if one of them is NaN.
__device__ inline double larger(double s, double t) { return t > s || t != t ? t : s; }

template <class Edge> __device__ inline double combined(double s, double t) {
  return Edge::MAXIMUM ? larger(s, t) : s + t;
}

// What lane 0 of a warp has of all lanes, in a fixed order.
template <class Edge> __device__ inline double of_warp(double t) {
  for (int step = WARP / 2; step > 0; step /= 2)
    t = combined<Edge>(t, __shfl_down_sync(ALL, t, step));
  return t;
}

// The first number of `sorted[begin .. end)` that is not less than `key`.
template <class T> __device__ inline I64 lower_bound(const T *sorted, I64 begin, I64 end, I64 key) {
  while (begin < end) {
    I64 middle = begin + (end - begin) / 2;
    if (sorted[middle] < key) begin = middle + 1;
    else end = middle;
  }
  return begin;
}

// --- the edge functions of reductions ------------------------------------------------------------

struct Weighted {  // Jᵀw = (A∘W) x + (A∘W)ᵀ x
  enum { VECTORS = 1, OUTPUTS = 1, SCALARS = 0, ALIGNED = 1, MAXIMUM = 0 };
  __device__ static void edge(double a, double w, const double *xi, const double *xj, double *to_i,
                              double *to_j, double *more) {
    double t = a * w;
    to_i[0] = t * xj[0], to_j[0] = t * xi[0];
  }
};

struct Squares {  // S u with S = A∘A + (A∘A)ᵀ
  enum { VECTORS = 1, OUTPUTS = 1, SCALARS = 0, ALIGNED = 0, MAXIMUM = 0 };
  __device__ static void edge(double a, double y, const double *xi, const double *xj, double *to_i,
                              double *to_j, double *more) {
    double t = a * a;
    to_i[0] = t * xj[0], to_j[0] = t * xi[0];
  }
};

struct Symmetric {  // (T + Tᵀ) x, where T has the visited entries of A
  enum { VECTORS = 1, OUTPUTS = 1, SCALARS = 0, ALIGNED = 0, MAXIMUM = 0 };
  __device__ static void edge(double a, double y, const double *xi, const double *xj, double *to_i,
                              double *to_j, double *more) {
    to_i[0] = a * xj[0], to_j[0] = a * xi[0];
  }
};

struct Nonzeros {  // the same with 1 in T for every visited entry that is not zero
  enum { VECTORS = 1, OUTPUTS = 1, SCALARS = 0, ALIGNED = 0, MAXIMUM = 0 };
  __device__ static void edge(double a, double y, const double *xi, const double *xj, double *to_i,
                              double *to_j, double *more) {
    double t = a != 0 ? 1.0 : 0.0;
    to_i[0] = t * xj[0], to_j[0] = t * xi[0];
  }
};

struct Largest {  // the largest |A_ij| x_i x_j of each row, and of each column; x is not negative
  enum { VECTORS = 1, OUTPUTS = 2, SCALARS = 0, ALIGNED = 0, MAXIMUM = 1 };
  __device__ static void edge(double a, double y, const double *xi, const double *xj, double *to_i,
                              double *to_j, double *more) {
    double f = fabs(a) * (xi[0] * xj[0]);
    to_i[0] = to_j[1] = f, to_i[1] = to_j[0] = 0;
  }
};

struct Beginning {  // S x, Σ y², Σ a y and Σ |a y|
  enum { VECTORS = 1, OUTPUTS = 1, SCALARS = 3, ALIGNED = 1, MAXIMUM = 0 };
  __device__ static void edge(double a, double y, const double *xi, const double *xj, double *to_i,
                              double *to_j, double *more) {
    double t = a * y;
    to_i[0] = a * a * xj[0], to_j[0] = a * a * xi[0];
    more[0] = y * y, more[1] = t, more[2] = fabs(t);
  }
};

struct Gradient {  // Jᵀ(F - Y), S (x∘x), and ‖F - Y‖²
  enum { VECTORS = 1, OUTPUTS = 2, SCALARS = 1, ALIGNED = 1, MAXIMUM = 0 };
  __device__ static void edge(double a, double y, const double *xi, const double *xj, double *to_i,
                              double *to_j, double *more) {
    double r = a * (xi[0] * xj[0]) - y, t = a * r, square = a * a;
    to_i[0] = t * xj[0], to_j[0] = t * xi[0];
    to_i[1] = square * (xj[0] * xj[0]), to_j[1] = square * (xi[0] * xi[0]);
    more[0] = r * r;
  }
};

struct Curvature {  // (M + Mᵀ) v with M = A∘(2 F - Y)
  enum { VECTORS = 2, OUTPUTS = 1, SCALARS = 0, ALIGNED = 1, MAXIMUM = 0 };
  __device__ static void edge(double a, double y, const double *xi, const double *xj, double *to_i,
                              double *to_j, double *more) {
    double t = a * (a * (2.0 * xi[0] * xj[0]) - y);
    to_i[0] = t * xj[1], to_j[0] = t * xi[1];
  }
};

struct Sum {  // for sums that are no operation over A
  enum { MAXIMUM = 0 };
};

// --- the edge functions of maps ------------------------------------------------------------------

struct Value {  // F
  template <class TA, class TX, class TY>
  __device__ static TX edge(TA a, TY y, TX xi, TX xj, TX vi, TX vj) {
    return a * (xi * xj);
  }
};

struct Residual {  // F - Y
  template <class TA, class TX, class TY>
  __device__ static TX edge(TA a, TY y, TX xi, TX xj, TX vi, TX vj) {
    return a * (xi * xj) - y;
  }
};

struct Product {  // J v
  template <class TA, class TX, class TY>
  __device__ static TX edge(TA a, TY y, TX xi, TX xj, TX vi, TX vj) {
    return a * (vi * xj + xi * vj);
  }
};

// --- maps ----------------------------------------------------------------------------------------

// One warp has one row. Its lanes write consecutive numbers. `implicit` says that J has a row for
// each place (i, j); v and `out` may have several columns.
template <class Edge, class TA, class TX, class TY, bool SPARSE, bool V>
__global__ void map_rows(const TA *data, const int *indices, const I64 *lo, const I64 *hi,
                         const I64 *first, I64 k, int implicit, I64 columns, const TY *aligned,
                         int by, const TX *x, const TX *v, TX *out) {
  I64 i = (I64)blockIdx.x * WARPS + threadIdx.x / WARP;
  if (i >= k) return;
  I64 begin = lo[i], count = (hi[i] - begin) * columns;
  TX xi = x[i];
#pragma unroll 4
  for (I64 e = threadIdx.x % WARP; e < count; e += WARP) {
    I64 q = columns == 1 ? e : e / columns, c = e - q * columns, p = begin + q;
    I64 j = SPARSE ? (I64)indices[p] : p - i * k;
    I64 cell = implicit ? i * k + j : first[i] + q;
    TY y = aligned ? aligned[place_of(by, p, i, j, lo, first, k)] : TY(0);
    TX vi = V ? v[i * columns + c] : TX(0), vj = V ? v[j * columns + c] : TX(0);
    out[cell * columns + c] = Edge::edge(data[p], y, xi, x[j], vi, vj);
  }
}

// Row r of J in CSR form. `diagonal[i]` counts the diagonal entries in the rows before i: each makes
// one number of J where the others make two. One thread more than J has rows ends the row pointers.
template <class TA, class TX, bool SPARSE>
__global__ void jacobian(const TA *data, const int *indices, const I64 *lo, const I64 *hi,
                         const I64 *first, const I64 *diagonal, I64 k, int implicit, I64 m,
                         const TX *x, TX *out, int *columns, int *row_pointers) {
  I64 r = (I64)blockIdx.x * THREADS + threadIdx.x;
  if (r > m) return;
  if (r == m) {
    row_pointers[m] = (int)(2 * first[k] - diagonal[k]);
    return;
  }
  I64 i = implicit ? r / k : lower_bound(first, 0, k + 1, r + 1) - 1;
  I64 p = implicit ? lower_bound(indices, lo[i], hi[i], r - i * k) : lo[i] + r - first[i];
  I64 j = implicit ? r - i * k : SPARSE ? (I64)indices[p] : p - i * k;
  I64 o = 2 * (first[i] + p - lo[i]) - diagonal[i];
  o -= diagonal[i + 1] > diagonal[i] && j > i;
  row_pointers[r] = (int)o;
  if (implicit && (p >= hi[i] || indices[p] != j)) return;
  TA a = data[p];
  if (i == j) {
    columns[o] = (int)i, out[o] = 2 * (a * x[i]);
    return;
  }
  bool below = j < i;
  columns[o] = (int)(below ? j : i), out[o] = below ? a * x[i] : a * x[j];
  columns[o + 1] = (int)(below ? i : j), out[o + 1] = below ? a * x[j] : a * x[i];
}

// The pairs (i, j) of the visited entries.
template <bool SPARSE>
__global__ void pairs(const int *indices, const I64 *lo, const I64 *hi, const I64 *first, I64 k,
                      int *rows, int *columns) {
  I64 i = (I64)blockIdx.x * WARPS + threadIdx.x / WARP;
  if (i >= k) return;
  for (I64 p = lo[i] + threadIdx.x % WARP; p < hi[i]; p += WARP) {
    rows[first[i] + p - lo[i]] = (int)i;
    columns[first[i] + p - lo[i]] = SPARSE ? indices[p] : (int)(p - i * k);
  }
}

// --- reductions over dense rows ------------------------------------------------------------------

// One block has a tile of some rows and COLUMNS columns. A thread has OWN columns, whose sums are in
// its registers. The sums of a row go through the warps. `half` says that A is symmetric and that
// the visited entries are its upper triangle: a diagonal entry then counts half.
template <class Edge, class TA, class TY>
__global__ void dense_sums(const TA *data, const I64 *lo, const I64 *hi, const I64 *first, I64 k,
                           I64 tile_rows, const TY *aligned, int by, I64 stride, int half, int own,
                           const double *x, const double *v, double *at_rows, double *at_columns,
                           double *scalars) {
  constexpr int OUTPUTS = Edge::OUTPUTS, SCALARS = Edge::SCALARS, SOME = SCALARS ? SCALARS : 1;
  __shared__ double of_warps[MOST_ROWS][OUTPUTS][WARPS];
  __shared__ double of_scalars[SOME][WARPS];
  I64 across = (k + COLUMNS - 1) / COLUMNS, tile = blockIdx.x;
  I64 i0 = tile / across * tile_rows, i1 = i0 + tile_rows < k ? i0 + tile_rows : k;
  I64 c0 = tile % across * COLUMNS;
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

  int visited = 0;
  for (I64 i = i0 + threadIdx.x; i < i1; i += THREADS)
    visited |= lo[i] - i * k < c0 + COLUMNS && hi[i] - i * k > c0 && lo[i] < hi[i];
  visited = __syncthreads_or(visited);

  double at_j[OWN][OUTPUTS], more[SOME], sums[SOME], xi[2], xj[OWN][2];
  for (int s = 0; s < SOME; ++s) sums[s] = more[s] = 0;
  for (int q = 0; q < OWN; ++q) {
    I64 j = c0 + q * THREADS + threadIdx.x;
    for (int o = 0; o < OUTPUTS; ++o) at_j[q][o] = 0;
    xj[q][0] = j < k ? x[j] : 0;
    xj[q][1] = Edge::VECTORS > 1 && j < k ? v[j] : 0;
  }
  for (I64 i = i0; visited && i < i1; ++i) {
    I64 left = lo[i] - i * k, right = hi[i] - i * k;
    double at_i[OUTPUTS];
    for (int o = 0; o < OUTPUTS; ++o) at_i[o] = 0;
    xi[0] = x[i], xi[1] = Edge::VECTORS > 1 ? v[i] : 0;
#pragma unroll
    for (int q = 0; q < OWN; ++q) {
      I64 j = c0 + q * THREADS + threadIdx.x, p = i * k + j;
      if (j < left || j >= right) continue;
      double to_i[OUTPUTS], to_j[OUTPUTS];
      double y = Edge::ALIGNED ? aligned[place_of(by, p, i, j, lo, first, k) * stride] : 0;
      Edge::edge(data[p], y, xi, xj[q], to_i, to_j, more);
      bool on_diagonal = i == j;
      for (int o = 0; o < OUTPUTS; ++o) {
        if (own && on_diagonal) to_i[o] += half ? to_i[o] : to_i[o] + to_j[o];
        if (half && on_diagonal) to_j[o] = 0;
        at_i[o] = combined<Edge>(at_i[o], to_i[o]);
        at_j[q][o] = combined<Edge>(at_j[q][o], to_j[o]);
      }
      for (int s = 0; s < SCALARS; ++s) sums[s] += half && on_diagonal ? 0.5 * more[s] : more[s];
    }
    for (int o = 0; o < OUTPUTS; ++o) {
      double t = of_warp<Edge>(at_i[o]);
      if (lane == 0) of_warps[i - i0][o][warp] = t;
    }
  }
  for (int s = 0; s < SCALARS; ++s) {
    double t = of_warp<Sum>(sums[s]);
    if (lane == 0) of_scalars[s][warp] = t;
  }
  __syncthreads();
  for (I64 i = i0 + threadIdx.x; i < i1; i += THREADS)
    for (int o = 0; o < OUTPUTS; ++o) {
      double t = 0;
      for (int w = 0; visited && w < WARPS; ++w) t = combined<Edge>(t, of_warps[i - i0][o][w]);
      at_rows[(tile % across * OUTPUTS + o) * k + i] = t;
    }
  for (int q = 0; q < OWN; ++q) {
    I64 j = c0 + q * THREADS + threadIdx.x;
    for (int o = 0; j < k && o < OUTPUTS; ++o)
      at_columns[(tile / across * OUTPUTS + o) * k + j] = at_j[q][o];
  }
  if (threadIdx.x < SCALARS) {
    double t = 0;
    for (int w = 0; w < WARPS; ++w) t += of_scalars[threadIdx.x][w];
    scalars[tile * SCALARS + threadIdx.x] = t;
  }
}

// Add the partial sums of the tiles, in order. `out` has `length` numbers for each output.
template <class Edge>
__global__ void add_tiles(const double *at_rows, I64 across, const double *at_columns, I64 down,
                          I64 k, double factor, I64 length, double *out) {
  I64 i = (I64)blockIdx.x * THREADS + threadIdx.x;
  if (i >= k) return;
  for (int o = 0; o < Edge::OUTPUTS; ++o) {
    double t = 0;
    for (I64 n = 0; n < across; ++n) t = combined<Edge>(t, at_rows[(n * Edge::OUTPUTS + o) * k + i]);
    for (I64 n = 0; n < down; ++n) t = combined<Edge>(t, at_columns[(n * Edge::OUTPUTS + o) * k + i]);
    out[o * length + i] = factor * t;
  }
}

// Add `count` partial sums of each of some scalars. One block has one scalar.
__global__ void add_scalars(const double *parts, I64 count, I64 scalars, double factor,
                            double *out) {
  __shared__ double of_warps[WARPS];
  double t = 0;
  for (I64 n = threadIdx.x; n < count; n += THREADS) t += parts[n * scalars + blockIdx.x];
  t = of_warp<Sum>(t);
  if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = t;
  __syncthreads();
  if (threadIdx.x > 0) return;
  t = 0;
  for (int w = 0; w < WARPS; ++w) t += of_warps[w];
  out[blockIdx.x] = factor * t;
}

// --- reductions over sparse rows -----------------------------------------------------------------

// One warp has one variable s. It gathers row s, and column s by `begin`, `rows` and `entries`: the
// entries of each column, in the order of their rows. Without `begin` A is symmetric, and row s
// stands for both; `without` then says that the diagonal does not count.
template <class Edge, class TA, class TY>
__global__ void sparse_sums(const TA *data, const int *indices, const I64 *lo, const I64 *hi,
                            const I64 *first, I64 k, const I64 *begin, const int *rows,
                            const I64 *entries, const TY *aligned, int by, I64 stride, int without,
                            int own, const double *x, const double *v, double factor, I64 length,
                            double *out, double *scalars) {
  constexpr int OUTPUTS = Edge::OUTPUTS, SCALARS = Edge::SCALARS, SOME = SCALARS ? SCALARS : 1;
  __shared__ double of_scalars[SOME][WARPS];
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  I64 s = (I64)blockIdx.x * WARPS + warp;
  double total[OUTPUTS], to_i[OUTPUTS], to_j[OUTPUTS], more[SOME], sums[SOME], xs[2], xt[2];
  for (int o = 0; o < OUTPUTS; ++o) total[o] = 0;
  for (int n = 0; n < SOME; ++n) sums[n] = more[n] = 0;
  if (s < k) {
    xs[0] = x[s], xs[1] = Edge::VECTORS > 1 ? v[s] : 0;
    for (I64 p = lo[s] + lane; p < hi[s]; p += WARP) {
      I64 j = indices[p];
      if (without && j == s) continue;
      xt[0] = x[j], xt[1] = Edge::VECTORS > 1 ? v[j] : 0;
      double y = Edge::ALIGNED ? aligned[place_of(by, p, s, j, lo, first, k) * stride] : 0;
      Edge::edge(data[p], y, xs, xt, to_i, to_j, more);
      for (int o = 0; o < OUTPUTS; ++o) {
        if (own && j == s) to_i[o] += begin ? to_i[o] + to_j[o] : to_i[o];
        total[o] = combined<Edge>(total[o], to_i[o]);
      }
      for (int n = 0; n < SCALARS; ++n) sums[n] += more[n];
    }
    for (I64 q = begin ? begin[s] + lane : 0, end = begin ? begin[s + 1] : 0; q < end; q += WARP) {
      I64 i = rows[q], p = entries[q];
      if (p < lo[i] || p >= hi[i]) continue;
      xt[0] = x[i], xt[1] = Edge::VECTORS > 1 ? v[i] : 0;
      double y = Edge::ALIGNED ? aligned[place_of(by, p, i, s, lo, first, k) * stride] : 0;
      Edge::edge(data[p], y, xt, xs, to_i, to_j, more);
      for (int o = 0; o < OUTPUTS; ++o) total[o] = combined<Edge>(total[o], to_j[o]);
    }
  }
  for (int o = 0; o < OUTPUTS; ++o) {
    double t = of_warp<Edge>(total[o]);
    if (lane == 0 && s < k) out[o * length + s] = factor * t;
  }
  for (int n = 0; n < SCALARS; ++n) {
    double t = of_warp<Sum>(sums[n]);
    if (lane == 0) of_scalars[n][warp] = t;
  }
  __syncthreads();
  if (threadIdx.x < SCALARS) {
    double t = 0;
    for (int w = 0; w < WARPS; ++w) t += of_scalars[threadIdx.x][w];
    scalars[(I64)blockIdx.x * SCALARS + threadIdx.x] = t;
  }
}

// --- structure and checks ------------------------------------------------------------------------

// The entries of each sparse row in the columns left[i] <= j < right[i].
__global__ void spans(const int *indptr, const int *indices, const I64 *left, const I64 *right,
                      I64 k, I64 *lo, I64 *hi) {
  I64 i = (I64)blockIdx.x * THREADS + threadIdx.x;
  if (i >= k) return;
  lo[i] = lower_bound(indices, indptr[i], indptr[i + 1], left[i]);
  hi[i] = lower_bound(indices, lo[i], indptr[i + 1], right[i]);
}

// The entry of each sparse row that is in one column, or, if that is -1, on the diagonal; or -1.
__global__ void in_column(const I64 *lo, const I64 *hi, const int *indices, I64 k, I64 column,
                          I64 *found) {
  I64 i = (I64)blockIdx.x * THREADS + threadIdx.x;
  if (i >= k) return;
  I64 j = column < 0 ? i : column, p = lower_bound(indices, lo[i], hi[i], j);
  found[i] = p < hi[i] && indices[p] == j ? p : -1;
}

// Whether each sparse row lies within its arrays, and its columns ascend.
__global__ void check_rows(const int *indptr, const int *indices, I64 k, I64 stored, int *bad) {
  I64 i = (I64)blockIdx.x * THREADS + threadIdx.x;
  if (i >= k) return;
  I64 begin = indptr[i], end = indptr[i + 1], before = -1;
  bad[i] = begin < 0 || begin > end || end > stored;
  for (I64 p = begin; !bad[i] && p < end; before = indices[p++])
    bad[i] = indices[p] <= before || indices[p] >= k;
}

// Of each row the lowest and the largest number, or 0, the largest absolute value, and how many
// numbers are not finite: four numbers for each row, one kind after the other.
template <class TA>
__global__ void row_facts(const TA *data, const I64 *lo, const I64 *hi, I64 k, double *facts) {
  I64 i = (I64)blockIdx.x * WARPS + threadIdx.x / WARP;
  if (i >= k) return;
  double low = 0, high = 0, bad = 0;
  for (I64 p = lo[i] + threadIdx.x % WARP; p < hi[i]; p += WARP) {
    double a = data[p];
    low = a < low ? a : low, high = a > high ? a : high, bad += a - a != 0 ? 1 : 0;
  }
  for (int step = WARP / 2; step > 0; step /= 2) {
    double l = __shfl_down_sync(ALL, low, step), h = __shfl_down_sync(ALL, high, step);
    low = l < low ? l : low, high = h > high ? h : high;
    bad += __shfl_down_sync(ALL, bad, step);
  }
  if (threadIdx.x % WARP > 0) return;
  facts[i] = low, facts[k + i] = high, facts[2 * k + i] = high > -low ? high : -low;
  facts[3 * k + i] = bad;
}

// Whether a = A_ij and b = A_ji are different: at all, or, with `largest`, the largest absolute value
// of each row, by more than both rows allow.
__device__ inline bool differ(double a, double b, const double *largest, double relative, I64 i,
                              I64 j) {
  if (a == b || (a != a && b != b)) return false;
  if (!largest) return true;
  double allowed = relative * (largest[i] < largest[j] ? largest[i] : largest[j]);
  return !(fabs(a - b) <= allowed);
}

// The first place i k + j of the tiles of some dense rows at which A and Aᵀ differ, or -1. One block
// compares SIDE rows with as many columns.
template <class TA>
__global__ void dense_asymmetry(const TA *data, I64 k, const double *largest, double relative,
                                I64 *found) {
  __shared__ TA mirror[SIDE][SIDE + 1];
  __shared__ I64 of_warps[WARPS];
  I64 i0 = (I64)blockIdx.x * SIDE, best = -1;
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  for (I64 j0 = 0; j0 <= i0; j0 += SIDE) {
    for (int r = warp; r < SIDE; r += WARPS)
      if (j0 + r < k && i0 + lane < k) mirror[r][lane] = data[(j0 + r) * k + i0 + lane];
    __syncthreads();
    for (int r = warp; r < SIDE; r += WARPS) {
      I64 i = i0 + r, j = j0 + lane;
      if (i < k && j < k && best < 0 && differ(data[i * k + j], mirror[lane][r], largest, relative, i, j))
        best = i * k + j;
    }
    __syncthreads();
  }
  for (int step = WARP / 2; step > 0; step /= 2) {
    I64 other = __shfl_down_sync(ALL, best, step);
    best = best < 0 || (other >= 0 && other < best) ? other : best;
  }
  if (lane == 0) of_warps[warp] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < WARPS; ++w)
    best = best < 0 || (of_warps[w] >= 0 && of_warps[w] < best) ? of_warps[w] : best;
  found[blockIdx.x] = best;
}

// `dense_asymmetry` for sparse rows: the first column of each row, or -1. An entry that is not
// stored is a 0, except without `largest`, where the structure counts as well.
template <class TA>
__global__ void sparse_asymmetry(const TA *data, const int *indices, const I64 *lo, const I64 *hi,
                                 I64 k, const double *largest, double relative, I64 *found) {
  I64 i = (I64)blockIdx.x * WARPS + threadIdx.x / WARP, best = -1;
  if (i >= k) return;
  for (I64 p = lo[i] + threadIdx.x % WARP; p < hi[i] && best < 0; p += WARP) {
    I64 j = indices[p], q = lower_bound(indices, lo[j], hi[j], i);
    bool stored = q < hi[j] && indices[q] == i;
    if (!stored && !largest) best = j;
    else if (differ(data[p], stored ? (double)data[q] : 0.0, largest, relative, i, j)) best = j;
  }
  for (int step = WARP / 2; step > 0; step /= 2) {
    I64 other = __shfl_down_sync(ALL, best, step);
    best = best < 0 || (other >= 0 && other < best) ? other : best;
  }
  if (threadIdx.x % WARP == 0) found[i] = best;
}

// The numbers of Y at the entries of a sparse A, and for each row how many nonzero numbers Y has
// elsewhere. Y is dense unless it has `y_lo`.
template <class TY>
__global__ void align_rows(const int *indices, const I64 *lo, const I64 *hi, I64 k, const TY *y,
                           const int *y_indices, const I64 *y_lo, const I64 *y_hi, TY *out,
                           I64 *outside) {
  I64 i = (I64)blockIdx.x * WARPS + threadIdx.x / WARP;
  if (i >= k) return;
  int lane = threadIdx.x % WARP;
  I64 begin = y_lo ? y_lo[i] : i * k, end = y_lo ? y_hi[i] : (i + 1) * k, left = 0;
  for (I64 q = begin + lane; q < end; q += WARP) left += y[q] != 0;
  for (I64 p = lo[i] + lane; p < hi[i]; p += WARP) {
    I64 j = indices[p], q = y_lo ? lower_bound(y_indices, begin, end, j) : begin + j;
    bool stored = !y_lo || (q < end && y_indices[q] == j);
    out[p] = stored ? y[q] : TY(0);
    left -= out[p] != 0;
  }
  for (int step = WARP / 2; step > 0; step /= 2) left += __shfl_down_sync(ALL, left, step);
  if (lane == 0) outside[i] = left;
}
