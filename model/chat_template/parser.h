// Template text to syntax tree.
#pragma once

#include <string_view>

#include "model/chat_template/ast.h"

namespace restkv::jinja {

/// Throws TemplateError with the line, naming tags and syntax outside the supported subset.
Body parse(std::string_view source);

}  // namespace restkv::jinja
