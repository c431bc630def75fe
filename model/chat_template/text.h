// Operations on valid UTF-8 text that count characters, with the meaning they have in Python.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace restkv::jinja {

/// Removes Python's white space from the left and the right end.
std::string_view strip(std::string_view text, bool left, bool right);
/// Removes any of `characters` from the ends.
std::string_view strip(std::string_view text, std::string_view characters, bool left, bool right);

/// Number of characters.
int64_t text_length(std::string_view text);
/// The characters one by one, as views of `text`.
std::vector<std::string_view> characters(std::string_view text);
/// The character that begins at byte `at`.
std::string_view character_at(std::string_view text, size_t at);

/// Simple case mapping, character by character.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
/// The first letter upper case, the others lower case: of the text, or of each of its words.
std::string capitalize(std::string_view text);
std::string title(std::string_view text);

/// str.split: at runs of white space when `separator` is null, else at every separator. At most `limit` cuts unless it
/// is negative. The separator must not be empty.
std::vector<std::string> split(std::string_view text, const std::string* separator, int64_t limit);
/// At most `limit` replacements unless it is negative.
std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t limit);

/// Resolves the escapes of a string literal. Throws TemplateError at `line`.
std::string unescape(std::string_view literal, int line);

/// The literal that Python's repr() gives.
std::string quote_python(std::string_view text);
/// The JSON string; only control characters, quotes and backslashes are escaped.
std::string quote_json(std::string_view text);
/// The shortest text that reads back as the number, as in Python.
std::string format_float(double value);

}  // namespace restkv::jinja
