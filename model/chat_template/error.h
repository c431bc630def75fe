// What goes wrong in a template, before the file's name is known.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace restkv::jinja {

/// Thrown while a template is parsed or rendered; render_chat turns it into an InputError.
struct TemplateError {
  std::string text;
  int line = 0;         ///< 0: not known where it was thrown
  bool raised = false;  ///< by the template's own raise_exception()
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError{fmt::format(format, std::forward<Args>(args)...)};
}

template <class... Args>
[[noreturn]] void fail_at(int line, fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError{fmt::format(format, std::forward<Args>(args)...), line};
}

}  // namespace restkv::jinja
