// Sums of gradients over all ranks that begin while a backward pass still computes others.
//
// On the CPU a backward pass runs in the thread that calls it, and so do its hooks: nothing here is shared by threads but the
// sums themselves, which Gloo's threads carry out.

#include "handles.hpp"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

struct AresOverlap {
  c10::intrusive_ptr<Gloo> group;
  // In the order in which their sums begin, which is the same on all ranks.
  std::vector<at::Tensor> weights;
  // Whether a gradient is complete in this step.
  std::vector<bool> complete;
  // The order in which they were completed.
  std::vector<uint64_t> order;
  std::vector<c10::intrusive_ptr<c10d::Work>> begun;
  // Whether the gradients that a backward pass adds to are complete afterwards.
  bool is_last = false;
  // Whether sums may begin before the end: once the order is known.
  bool begins_early = false;
  // Whether a gradient was added to after it was complete.
  bool misused = false;

  void begin() {
    std::vector<at::Tensor> gradient{weights[begun.size()].mutable_grad()};
    begun.push_back(group->allreduce(gradient));
  }

  void added_to(size_t index) {
    if (complete[index]) {
      misused = true;
    }
    if (!is_last || complete[index]) {
      return;
    }
    complete[index] = true;
    order.push_back(index);
    while (begins_early && begun.size() < weights.size() && complete[begun.size()]) {
      begin();
    }
  }
};

namespace {

struct AddedTo final : torch::autograd::PostAccumulateGradHook {
  AresOverlap* sums;
  size_t index;

  AddedTo(AresOverlap* sums, size_t index) : sums(sums), index(index) {}

  void operator()(const at::Tensor& /* weight */) override {
    sums->added_to(index);
  }
};

void set_hooks(AresOverlap* sums) {
  for (size_t index = 0; index < sums->weights.size(); index++) {
    torch::autograd::impl::set_post_acc_grad_hooks(
        sums->weights[index], std::make_unique<AddedTo>(sums, index));
  }
}

} // namespace

extern "C" {

// The weights have gradients already, which are added to in place from now on. Sums begin at the end until an order is set.
int32_t ares_overlap_open(AresOverlap** out, AresGroup* group, at::Tensor* const* weights, size_t count) {
  return attempt([&] {
    auto sums = std::make_unique<AresOverlap>();
    sums->group = group->inner;
    sums->complete.resize(count);
    for (size_t index = 0; index < count; index++) {
      sums->weights.push_back(*weights[index]);
    }
    set_hooks(sums.get());
    *out = sums.release();
  });
}

// Sets the order in which sums begin, as indices of the present one. None is in progress.
int32_t ares_overlap_reorder(AresOverlap* sums, const uint64_t* order) {
  return attempt([&] {
    std::vector<at::Tensor> weights;
    for (size_t index = 0; index < sums->weights.size(); index++) {
      weights.push_back(sums->weights.at(order[index]));
    }
    sums->weights = std::move(weights);
    sums->begins_early = true;
    set_hooks(sums);
  });
}

// Whether the backward passes from now on are the last ones to reach their weights.
void ares_overlap_is_last(AresOverlap* sums, bool is_last) {
  sums->is_last = is_last;
}

// Number of sums begun in this step.
size_t ares_overlap_begun(const AresOverlap* sums) {
  return sums->begun.size();
}

// Begins the sums that have not begun, and waits for all of them. `order` [count] receives the order in which the gradients
// were completed, of which there are `completed`; those that no last backward pass reached are at its end.
int32_t ares_overlap_end(AresOverlap* sums, uint64_t* order, size_t* completed) {
  return attempt([&] {
    sums->is_last = false;
    const size_t count = sums->weights.size();
    while (sums->begun.size() < count) {
      sums->begin();
    }
    *completed = sums->order.size();
    for (size_t index = 0; index < count; index++) {
      if (!sums->complete[index]) {
        sums->order.push_back(index);
      }
    }
    std::copy(sums->order.begin(), sums->order.end(), order);
    for (auto& work : sums->begun) {
      work->wait();
    }
    sums->begun.clear();
    sums->order.clear();
    sums->complete.assign(count, false);
    TORCH_CHECK(!sums->misused, "a backward pass added to a gradient after the one that was to be the last");
  });
}

void ares_overlap_close(AresOverlap* sums) {
  attempt([&] {
    for (auto& weight : sums->weights) {
      torch::autograd::impl::set_post_acc_grad_hooks(weight, nullptr);
    }
    delete sums;
  });
}

} // extern "C"
