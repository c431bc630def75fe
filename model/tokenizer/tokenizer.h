// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace restkv {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids of UTF-8 text. Special tokens that stand in the text literally ("<|im_start|>") become their id when
  /// `parse_special`. Throws InputError for invalid UTF-8 (naming the byte offset).
  virtual std::vector<int32_t> encode(std::string_view text, bool parse_special) const = 0;

  /// The bytes of one token (they need not be whole UTF-8 characters); empty for special tokens when skip_special, and
  /// for ids that name no token (models pad their vocabulary).
  virtual std::string piece(int32_t id, bool skip_special) const = 0;

  /// Whether the token is a byte fallback ("<0x0A>"): a run of such tokens is text only as a whole.
  virtual bool is_byte(int32_t) const { return false; }
  /// How many spaces are taken from the beginning of decoded text: those that encode puts there.
  virtual int64_t leading_spaces() const { return 0; }

  virtual int64_t vocab_size() const = 0;
  virtual bool is_special(int32_t id) const = 0;
  /// Id of a token by the exact text it stands for ("<|im_end|>", " the"), or -1.
  virtual int32_t id_of(std::string_view token) const = 0;

  /// The tokens that begin and end a text; -1 for none.
  virtual int32_t bos() const = 0;
  virtual int32_t eos() const = 0;
  /// Whether encode's callers put bos before a raw prompt that does not begin with it, and eos after one that does not
  /// end with it: the model's own tokenizer says so, and chat models say no to eos. Texts of chat templates get
  /// neither.
  virtual bool add_bos() const = 0;
  virtual bool add_eos() const { return false; }
  /// Template variables: text of the bos and eos tokens (may be empty).
  std::string bos_text() const;
  std::string eos_text() const;

  virtual std::string describe() const = 0;

  /// The text of the ids. Bytes that do not form UTF-8 become U+FFFD: one for each maximal part of a character, and
  /// one for every byte of a run of byte-fallback tokens that is not valid UTF-8 as a whole.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const;
};

/// Turns a stream of ids into text, holding back bytes until they complete a UTF-8 character. The text is that of
/// decode(), but for runs of byte-fallback tokens that turn out invalid: the characters before the first invalid byte
/// have been shown by then, and stay.
class StreamDecoder {
 public:
  /// The tokenizer must outlive the decoder. Special tokens give no text when `skip_special`.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special), leading_spaces_(tokenizer.leading_spaces()) {}
  /// Text that became complete with this token (may be empty).
  std::string push(int32_t id);
  /// What is left at the end, invalid bytes replaced by U+FFFD.
  std::string finish();

 private:
  void take(std::string_view bytes, std::string& text);
  void close(std::string& text);
  std::string without_leading_spaces(std::string text);

  const Tokenizer* tokenizer_;
  bool skip_special_;
  int64_t leading_spaces_;  // still to be taken away
  std::string pending_;
  bool in_bytes_ = false;  // pending_ and what comes next belong to a run of byte-fallback tokens
  bool broken_ = false;    // this run has an invalid byte
};

}  // namespace restkv
