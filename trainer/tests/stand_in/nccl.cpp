// NCCL and CUDA's runtime as far as sums over ranks need them, for ranks that are threads of one process and have their
// "GPU memory" in main memory. Written from nccl.h and cuda_runtime_api.h: an operation is put on a stream and returns; it is
// over when all ranks have come to it, in the same order and with the same size; a broken communicator says so when asked. To
// open a communicator blocks until all ranks have come, forever if one never does.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

extern "C" {
typedef struct { char internal[128]; } ncclUniqueId;
typedef int ncclResult_t;
typedef void *cudaStream_t;
typedef int cudaError_t;
}

namespace {

enum { success = 0, invalid_argument = 4, invalid_usage = 5, remote_error = 6 };
enum { not_ready = 600 };

struct Operation {
  const void *from;
  void *to;
  size_t count;
  int type;
  int root; // -1: a sum
};

struct World {
  int size = 0;
  int come = 0;
  std::vector<std::vector<Operation>> begun;
  size_t over = 0;
  bool is_broken = false;
};

struct Comm {
  World *world;
  int rank;
};

// Never destroyed: when the process ends, threads may still wait for a rank that does not come.
std::mutex &lock = *new std::mutex;
std::condition_variable &changed = *new std::condition_variable;
std::map<std::string, World> &worlds = *new std::map<std::string, World>;
int ids = 0, opened = 0, closed = 0, aborted = 0;
bool shares_gpu = false;
thread_local Comm *mine = nullptr;
thread_local std::string failure;
thread_local cudaError_t last = success;

float from_bfloat16(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float number;
  std::memcpy(&number, &wide, 4);
  return number;
}

uint16_t to_bfloat16(float number) {
  uint32_t wide;
  std::memcpy(&wide, &number, 4);
  return uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

template <typename T> void add(std::vector<Operation> &all) {
  std::vector<T> sum(all[0].count, T(0));
  for (auto &one : all)
    for (size_t i = 0; i < one.count; ++i) sum[i] += static_cast<const T *>(one.from)[i];
  for (auto &one : all) std::memcpy(one.to, sum.data(), sum.size() * sizeof(T));
}

size_t width(int type) {
  switch (type) {
  case 0: case 1: return 1;
  case 6: case 9: return 2;
  case 2: case 3: case 7: return 4;
  default: return 8;
  }
}

void run(std::vector<Operation> &all) {
  if (all[0].root >= 0) {
    const Operation from = all[all[0].root];
    for (auto &one : all)
      if (one.to != from.from) std::memmove(one.to, from.from, one.count * width(one.type));
    return;
  }
  switch (all[0].type) {
  case 1: return add<uint8_t>(all);
  case 4: return add<int64_t>(all);
  case 7: return add<float>(all);
  case 8: return add<double>(all);
  case 9: {
    std::vector<float> sum(all[0].count, 0);
    for (auto &one : all)
      for (size_t i = 0; i < one.count; ++i) sum[i] += from_bfloat16(static_cast<const uint16_t *>(one.from)[i]);
    for (auto &one : all)
      for (size_t i = 0; i < one.count; ++i) static_cast<uint16_t *>(one.to)[i] = to_bfloat16(sum[i]);
  }
  }
}

ncclResult_t begin(Comm *comm, Operation operation, cudaStream_t stream) {
  if (stream != nullptr) {
    failure = "expected the default stream";
    return invalid_argument;
  }
  std::lock_guard<std::mutex> guard(lock);
  World &world = *comm->world;
  world.begun[comm->rank].push_back(operation);
  for (;;) {
    std::vector<Operation> all;
    for (auto &of_rank : world.begun)
      if (of_rank.size() > world.over) all.push_back(of_rank[world.over]);
    if (all.size() < size_t(world.size)) return success;
    for (auto &one : all)
      if (one.count != all[0].count || one.type != all[0].type || one.root != all[0].root) world.is_broken = true;
    if (!world.is_broken) run(all);
    ++world.over;
  }
}

} // namespace

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  std::lock_guard<std::mutex> guard(lock);
  std::memset(id->internal, 0x9e, sizeof id->internal);
  ++ids;
  std::memcpy(id->internal, &ids, sizeof ids);
  return success;
}

ncclResult_t ncclCommInitRank(Comm **comm, int size, ncclUniqueId id, int rank) {
  std::unique_lock<std::mutex> guard(lock);
  if (shares_gpu && rank == size - 1) {
    failure = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000";
    return invalid_usage;
  }
  World &world = worlds[std::string(id.internal, sizeof id.internal)];
  world.size = size;
  world.begun.resize(size);
  ++world.come;
  changed.notify_all();
  changed.wait(guard, [&] { return world.come == size; });
  *comm = new Comm{&world, rank};
  ++opened;
  return success;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, int type, int op, Comm *comm, cudaStream_t stream) {
  mine = comm;
  if (op != 0) return invalid_argument;
  return begin(comm, {from, to, count, type, -1}, stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, int type, int root, Comm *comm, cudaStream_t stream) {
  mine = comm;
  return begin(comm, {from, to, count, type, root}, stream);
}

ncclResult_t ncclCommGetAsyncError(Comm *comm, ncclResult_t *error) {
  std::lock_guard<std::mutex> guard(lock);
  *error = comm->world->is_broken ? remote_error : success;
  if (comm->world->is_broken) failure = "another rank did something else";
  return success;
}

const char *ncclGetErrorString(ncclResult_t error) {
  return error == invalid_usage ? "invalid usage" : error == remote_error ? "remote process exited" : "invalid argument";
}

const char *ncclGetLastError(Comm *) { return failure.c_str(); }

ncclResult_t ncclCommAbort(Comm *comm) {
  std::lock_guard<std::mutex> guard(lock);
  ++aborted;
  delete comm;
  return success;
}

ncclResult_t ncclCommDestroy(Comm *comm) {
  std::lock_guard<std::mutex> guard(lock);
  ++closed;
  delete comm;
  return success;
}

cudaError_t cudaStreamQuery(cudaStream_t) {
  std::lock_guard<std::mutex> guard(lock);
  if (mine == nullptr || mine->world->begun[mine->rank].size() <= mine->world->over) return success;
  return last = not_ready;
}

cudaError_t cudaGetLastError() {
  cudaError_t was = last;
  last = success;
  return was;
}

const char *cudaGetErrorString(cudaError_t) { return "not ready"; }

// For tests: whether two ranks have one GPU, and how many communicators were opened, closed and aborted.
void stand_in_share_gpu(int shares) { shares_gpu = shares != 0; }
void stand_in_counts(int *counts) {
  std::lock_guard<std::mutex> guard(lock);
  counts[0] = opened, counts[1] = closed, counts[2] = aborted;
}
}
