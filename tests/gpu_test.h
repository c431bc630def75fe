// The fixture of tests that need a GPU: they are skipped, with the reason, where there is none.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "dist/base/context.h"
#include "dist/base/error.h"

namespace restkv::testing {

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      gpu = std::make_unique<Context>(Context::Options{Device::gpu, threads()});
    } catch (const InputError& e) {
      GTEST_SKIP() << e.what();
    }
  }
  /// CPU threads of the GPU's context; 0: all cores.
  virtual int threads() const { return 1; }

  std::unique_ptr<Context> gpu;
};

}  // namespace restkv::testing
