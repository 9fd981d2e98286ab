// What the C functions in this folder share: handles, and how failures are reported.

#pragma once

#define USE_C10D_GLOO

#include <cstdint>
#include <exception>
#include <string>

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

using Gloo = c10d::ProcessGroupGloo;

struct AresGroup {
  c10::intrusive_ptr<Gloo> inner;
};

// Why the last function of this thread failed.
inline thread_local std::string failure;

// No exception may leave a C function.
template <typename Work>
int32_t attempt(Work work) noexcept {
  try {
    work();
    return 0;
  } catch (const c10::Error& error) {
    failure = error.what_without_backtrace();
  } catch (const std::exception& error) {
    failure = error.what();
  } catch (...) {
    failure = "unknown exception";
  }
  return 1;
}
