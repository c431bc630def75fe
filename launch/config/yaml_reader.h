// yaml-cpp behind one function: a file as flat "section.key" values with their lines.
#pragma once

#include <string>
#include <vector>

#include "launch/config/value.h"

namespace restkv {

/// All values of a YAML file of sections ("cache:") with keys, in the file's order; key is "section.key". A key at
/// the top level, or one nested deeper, comes back with its own dotted name. Throws InputError for a file that cannot
/// be read, YAML syntax errors (with line and column), keys given twice, and more than one document.
std::vector<Value> read_yaml_values(const std::string& path);

/// The value of an override "key=value". `literal`: the text after '=' as it stands; otherwise it is read as YAML.
/// Throws InputError when it is no such pair.
Value read_override(const std::string& assignment, bool (*literal)(const std::string& key));

}  // namespace restkv
