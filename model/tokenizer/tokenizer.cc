#include "model/tokenizer/tokenizer.h"

#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

void append_replacements(size_t count, std::string& text) {
  for (; count > 0; --count) append_utf8(text, 0xFFFD);
}

// All of a run of byte-fallback tokens, or the bytes of any other tokens.
void append_bytes(std::string_view bytes, bool byte_tokens, std::string& text) {
  if (!byte_tokens) {
    append_repaired_utf8(bytes, true, text);
  } else if (first_invalid_utf8(bytes) == std::string_view::npos) {
    text += bytes;
  } else {
    append_replacements(bytes.size(), text);
  }
}

}  // namespace

std::string Tokenizer::bos_text() const { return bos() < 0 ? std::string() : piece(bos(), false); }

std::string Tokenizer::eos_text() const { return eos() < 0 ? std::string() : piece(eos(), false); }

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string text;
  std::string bytes;
  bool in_bytes = false;
  for (const int32_t id : ids) {
    const std::string next = piece(id, skip_special);
    if (next.empty()) continue;
    if (is_byte(id) != in_bytes) {
      append_bytes(bytes, in_bytes, text);
      bytes.clear();
      in_bytes = !in_bytes;
    }
    bytes += next;
  }
  append_bytes(bytes, in_bytes, text);
  size_t spaces = 0;
  while (spaces < static_cast<size_t>(leading_spaces()) && spaces < text.size() && text[spaces] == ' ') ++spaces;
  return text.substr(spaces);
}

std::string StreamDecoder::push(int32_t id) {
  const std::string bytes = tokenizer_->piece(id, skip_special_);
  std::string text;
  if (bytes.empty()) return text;
  if (tokenizer_->is_byte(id) != in_bytes_) {
    close(text);
    in_bytes_ = !in_bytes_;
  }
  take(bytes, text);
  return without_leading_spaces(std::move(text));
}

std::string StreamDecoder::finish() {
  std::string text;
  close(text);
  return without_leading_spaces(std::move(text));
}

void StreamDecoder::take(std::string_view bytes, std::string& text) {
  pending_ += bytes;
  if (!in_bytes_) {
    pending_.erase(0, append_repaired_utf8(pending_, false, text));
    return;
  }
  size_t done = 0;
  while (!broken_ && done < pending_.size()) {
    const Utf8Step step = next_utf8(pending_, done);
    if (step.kind == Utf8Step::Kind::kTruncated) break;
    broken_ = step.kind == Utf8Step::Kind::kInvalid;
    if (broken_) break;
    text.append(pending_, done, step.length);
    done += step.length;
  }
  pending_.erase(0, done);
  if (!broken_) return;
  append_replacements(pending_.size(), text);
  pending_.clear();
}

// The end of a run, or of the stream.
void StreamDecoder::close(std::string& text) {
  append_bytes(pending_, in_bytes_, text);
  pending_.clear();
  broken_ = false;
}

std::string StreamDecoder::without_leading_spaces(std::string text) {
  size_t spaces = 0;
  for (; leading_spaces_ > 0 && spaces < text.size(); ++spaces) {
    if (text[spaces] != ' ') leading_spaces_ = 0;
    if (leading_spaces_ == 0) break;
    --leading_spaces_;
  }
  return text.substr(spaces);
}

}  // namespace restkv
