// CUDA's threads as fibers, so that g++ compiles a .cu file and its kernels run without a GPU.
//
// A block's threads run one at a time. A barrier or a shuffle hands over to the next thread, and
// lets a thread go on when all threads of its block or warp have arrived. Threads run forwards,
// backwards, or the last warp first. If no thread can go on, a barrier was not reached by all.
#include <link.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#define fabs __builtin_fabs
#define __global__ static
#define __device__
#define __shared__ static thread_local  // so that all of it is in one place: see `find_shared`
struct Dim { unsigned x; };
static Dim threadIdx, blockIdx;

namespace fibers {
constexpr int WARP = 32, MOST = 256, STACK = 1 << 15;
struct Group { int size = 0, arrived = 0, votes = 0, result = 0; long round = 0; };
struct Fiber { jmp_buf at; ucontext_t start; bool begun, done; int shuffles; };
static Fiber all[MOST];
static char stacks[MOST][STACK];
static Group warps[MOST / WARP];
static Group block;
static char slots[2][MOST / WARP][WARP][8];  // two rounds of shuffles: a thread is at most one ahead
static ucontext_t scheduler;
static jmp_buf back;
static void (*body)(void **);
static void **arguments;
static long progress;

static thread_local volatile char first;
static char *shared;
static size_t shared_size;

// Finds the shared memory of the kernels: the variables of a thread in this library.
static int find_shared(dl_phdr_info *library, size_t, void *) {
  bool here = false;
  for (int n = 0; n < library->dlpi_phnum; ++n) {
    const ElfW(Phdr) &part = library->dlpi_phdr[n];
    size_t offset = (size_t)&block - library->dlpi_addr - part.p_vaddr;
    here |= part.p_type == PT_LOAD && offset < part.p_memsz;
    if (part.p_type == PT_TLS) shared_size = part.p_memsz;
  }
  shared = (char *)library->dlpi_tls_data;
  return here;
}

static void entry() {
  body(arguments);
  all[threadIdx.x].done = true, ++progress;
  _longjmp(back, 1);
}
static void yield() {
  if (!_setjmp(all[threadIdx.x].at)) _longjmp(back, 1);
}
static int arrive(Group &group, int vote) {
  long round = group.round;
  group.votes |= vote, ++progress;
  if (++group.arrived == group.size) {
    group.result = group.votes, group.arrived = group.votes = 0, ++group.round;
  } else {
    while (group.round == round) yield();
  }
  return group.result;
}
static bool run_block(int threads, int order) {
  block = {}, block.size = threads;
  memset(shared, 0xFF, shared_size);  // it may hold anything, here NaN
  for (Group &warp : warps) warp = {};
  for (int t = 0; t < threads; ++t) {
    Fiber &fiber = all[t];
    fiber.begun = fiber.done = false, fiber.shuffles = 0;
    ++warps[t / WARP].size;
  }
  for (int left = threads; left > 0;) {
    long before = progress;
    for (int n = 0; n < threads; ++n) {
      int w = (threads - 1 - n) / WARP;  // order 2: the last warp first, its lanes forwards
      int t = order == 0 ? n : order == 1 ? threads - 1 - n : w * WARP + n % WARP;
      Fiber &fiber = all[t];
      if (fiber.done) continue;
      threadIdx.x = t;
      if (!_setjmp(back)) {
        if (fiber.begun) _longjmp(fiber.at, 1);
        fiber.begun = true, getcontext(&fiber.start);
        fiber.start.uc_stack = {stacks[t], 0, STACK};
        makecontext(&fiber.start, entry, 0);
        setcontext(&fiber.start);
      }
      if (all[threadIdx.x].done) --left;
    }
    if (progress == before) return false;
  }
  return true;
}

template <int... I> struct Indices {};
template <int n> using Below = Indices<__integer_pack(n)...>;
template <auto f> struct Kernel;
template <class... P, void (*f)(P...)> struct Kernel<f> {
  template <int... I> static void go(void **a, Indices<I...>) { f(*static_cast<P *>(a[I])...); }
  static void call(void **a) { go(a, Below<sizeof...(P)>{}); }
  static int sizes(int *into) {
    int found[] = {(int)sizeof(P)...};
    memcpy(into, found, sizeof found);
    return sizeof...(P);
  }
  static int launch(unsigned blocks, int threads, int order, void **a) {
    body = call, arguments = a, first = 0;  // its memory is there from now on
    dl_iterate_phdr(find_shared, nullptr);
    for (unsigned n = 0; n < blocks; ++n) {
      blockIdx.x = order == 0 ? n : blocks - 1 - n;
      if (!run_block(threads, order)) return 1;
    }
    return 0;
  }
};
}  // namespace fibers

static void __syncthreads() { fibers::arrive(fibers::block, 0); }
static int __syncthreads_or(int vote) { return fibers::arrive(fibers::block, vote); }
template <class T> static T __shfl_down_sync(unsigned, T value, int step) {
  int t = threadIdx.x, lane = t % fibers::WARP, w = t / fibers::WARP;
  auto &slot = fibers::slots[fibers::all[t].shuffles++ % 2][w];
  memcpy(slot[lane], &value, sizeof value);
  fibers::arrive(fibers::warps[w], 0);
  T found;
  memcpy(&found, slot[lane + step < fibers::WARP ? lane + step : lane], sizeof found);
  return found;
}
