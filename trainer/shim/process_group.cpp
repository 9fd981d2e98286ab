// PyTorch's process groups (c10d: a key-value store over TCP, and Gloo's collectives) as C functions, which Rust can call.
//
// Each function returns 0, or 1 where it failed; `ares_failure` then says why, in the thread that called.

#include "handles.hpp"

#include <cstdlib>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

using Milliseconds = std::chrono::milliseconds;

struct AresStore {
  c10::intrusive_ptr<c10d::Store> inner;
};

struct AresWork {
  c10::intrusive_ptr<c10d::Work> inner;
};

namespace {

thread_local std::vector<uint8_t> found;

} // namespace

extern "C" {

const char* ares_failure() {
  return failure.c_str();
}

int32_t ares_store_open(
    AresStore** out,
    const char* host,
    uint16_t port,
    bool serves,
    const char* prefix,
    int64_t timeout_ms) {
  return attempt([&] {
    c10::initLogging(); // reads TORCH_CPP_LOG_LEVEL
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serves;
    options.waitWorkers = false; // the keys show which ranks are missing
    options.timeout = Milliseconds(timeout_ms);
    auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    *out = new AresStore{c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(store))};
  });
}

int32_t ares_store_set(AresStore* store, const char* key, const uint8_t* bytes, size_t count) {
  return attempt([&] { store->inner->set(key, std::vector<uint8_t>(bytes, bytes + count)); });
}

int32_t ares_store_add(AresStore* store, const char* key, int64_t amount, int64_t* sum) {
  return attempt([&] { *sum = store->inner->add(key, amount); });
}

int32_t ares_store_has(AresStore* store, const char* key, bool* has) {
  return attempt([&] { *has = store->inner->check({key}); });
}

// The bytes stay until the thread's next call.
int32_t ares_store_get(AresStore* store, const char* key, const uint8_t** bytes, size_t* count) {
  return attempt([&] {
    found = store->inner->get(key);
    *bytes = found.data();
    *count = found.size();
  });
}

void ares_store_close(AresStore* store) {
  attempt([&] { delete store; });
}

// `address` is this machine's, as the other ranks reach it; an interface named by GLOO_SOCKET_IFNAME comes before it.
int32_t ares_group_open(
    AresGroup** out,
    AresStore* store,
    const char* address,
    int32_t rank,
    int32_t world,
    int64_t timeout_ms) {
  return attempt([&] {
    const Milliseconds timeout(timeout_ms);
    const bool named = std::getenv("GLOO_SOCKET_IFNAME") != nullptr;
    auto options = named ? Gloo::Options::create_default(timeout) : Gloo::Options::create(timeout);
    if (options->devices.empty()) {
      options->devices.push_back(Gloo::createDeviceForHostname(address));
    }
    *out = new AresGroup{c10::make_intrusive<Gloo>(store->inner, rank, world, options)};
  });
}

// Begins a sum, in place. The tensor is left alone until the operation is over.
int32_t ares_group_sum(AresGroup* group, at::Tensor* tensor, AresWork** out) {
  return attempt([&] {
    std::vector<at::Tensor> list{*tensor};
    *out = new AresWork{group->inner->allreduce(list)};
  });
}

// Begins to bring the tensor of one rank to all others.
int32_t ares_group_broadcast(AresGroup* group, at::Tensor* tensor, int32_t from, AresWork** out) {
  return attempt([&] {
    std::vector<at::Tensor> list{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = from;
    *out = new AresWork{group->inner->broadcast(list, options)};
  });
}

int32_t ares_work_wait(AresWork* work) {
  return attempt([&] { work->inner->wait(); });
}

void ares_work_close(AresWork* work) {
  attempt([&] { delete work; });
}

// `into` is [ranks · n] for `from` [n].
int32_t ares_group_gather(AresGroup* group, at::Tensor* into, at::Tensor* from) {
  return attempt([&] { group->inner->_allgather_base(*into, *from)->wait(); });
}

int32_t ares_group_send(AresGroup* group, at::Tensor* tensor, int32_t to) {
  return attempt([&] {
    std::vector<at::Tensor> list{*tensor};
    group->inner->send(list, to, 0)->wait();
  });
}

int32_t ares_group_receive(AresGroup* group, at::Tensor* tensor, int32_t from) {
  return attempt([&] {
    std::vector<at::Tensor> list{*tensor};
    group->inner->recv(list, from, 0)->wait();
  });
}

int32_t ares_group_barrier(AresGroup* group) {
  return attempt([&] { group->inner->barrier()->wait(); });
}

void ares_group_close(AresGroup* group) {
  attempt([&] { delete group; });
}

} // extern "C"
