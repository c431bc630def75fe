// Errors of two kinds, and the checks that raise them.
//
//  - InputError: the user can mend it (configuration, weights, tokenizer, prompt, layout, memory). Its text names
//    the file, the key or tensor, what was found and what is allowed. A program ends with exit code 2.
//  - RuntimeFailure: anything else (a library call, a lost rank, a broken invariant). Exit code 1.
//
// Neither is caught inside the library: launch/ prints it once, ends all ranks and chooses the exit code.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace restkv {

class Error : public std::runtime_error {
 public:
  Error(const std::string& text, int exit_code) : std::runtime_error(text), exit_code_(exit_code) {}
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

class InputError : public Error {
 public:
  explicit InputError(const std::string& text) : Error(text, 2) {}
};

class RuntimeFailure : public Error {
 public:
  explicit RuntimeFailure(const std::string& text) : Error(text, 1) {}
};

/// Throws InputError with the formatted text.
template <class... Args>
[[noreturn]] void fail_input(fmt::format_string<Args...> format, Args&&... args) {
  throw InputError(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws RuntimeFailure with the formatted text.
template <class... Args>
[[noreturn]] void fail_runtime(fmt::format_string<Args...> format, Args&&... args) {
  throw RuntimeFailure(fmt::format(format, std::forward<Args>(args)...));
}

namespace detail {
[[noreturn]] void check_failed(const char* condition, const char* file, int line, const std::string& text);
}

/// A precondition or invariant of the code itself (not of the user's input). Always on: the checks stand outside
/// inner loops. RESTKV_CHECK(condition, "format", arguments...)
#define RESTKV_CHECK(condition, ...)                                                              \
  do {                                                                                            \
    if (!(condition)) [[unlikely]]                                                                \
      ::restkv::detail::check_failed(#condition, __FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
  } while (0)

}  // namespace restkv
