#include "model/tokenizer/tokenizer.h"

#include "model/tokenizer/utf8.h"

namespace restkv {

std::string Tokenizer::bos_text() const { return bos() < 0 ? std::string() : piece(bos(), false); }

std::string Tokenizer::eos_text() const { return eos() < 0 ? std::string() : piece(eos(), false); }

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) bytes += piece(id, skip_special);
  std::string text;
  text.reserve(bytes.size());
  append_repaired_utf8(bytes, true, text);
  return text;
}

std::string StreamDecoder::push(int32_t id) {
  pending_ += tokenizer_->piece(id, skip_special_);
  std::string text;
  pending_.erase(0, append_repaired_utf8(pending_, false, text));
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_repaired_utf8(pending_, true, text);
  pending_.clear();
  return text;
}

}  // namespace restkv
