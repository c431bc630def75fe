#include "model/tokenizer/sentencepiece_model.h"

#include <bit>
#include <cstring>

#include "dist/base/error.h"

namespace restkv {
namespace {

// The field numbers of sentencepiece_model.proto.
enum ModelField { kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3 };
enum PieceField { kText = 1, kScore = 2, kType = 3 };
enum TrainerField { kModelType = 3, kByteFallback = 35, kUnkId = 40, kBosId = 41, kEosId = 42 };
enum NormalizerField { kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4 };

enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  uint32_t number = 0;
  uint64_t value = 0;      // of numbers
  std::string_view bytes;  // of texts and messages
};

// Steps through the fields of one protocol buffer message.
class Fields {
 public:
  Fields(std::string_view bytes, const std::string& origin) : bytes_(bytes), origin_(origin) {}

  bool next(Field& field) {
    if (at_ == bytes_.size()) return false;
    const uint64_t tag = varint();
    field = {static_cast<uint32_t>(tag >> 3), 0, {}};
    if (tag >> 3 == 0 || tag >> 32 != 0) refuse();
    switch (tag & 7) {
      case kVarint: field.value = varint(); return true;
      case kFixed64: field.value = fixed(8); return true;
      case kFixed32: field.value = fixed(4); return true;
      case kBytes: field.bytes = take(varint()); return true;
      default: refuse();
    }
  }

 private:
  [[noreturn]] void refuse() const {
    fail_input("{}: not a SentencePiece model (near byte {}); supported: tokenizer.json, or a SentencePiece model",
               origin_, at_);
  }

  std::string_view take(uint64_t size) {
    if (size > bytes_.size() - at_) refuse();
    const std::string_view part = bytes_.substr(at_, size);
    at_ += size;
    return part;
  }

  uint64_t fixed(size_t size) {
    uint64_t value = 0;
    std::memcpy(&value, take(size).data(), size);  // both are little-endian
    return value;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1).front());
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    refuse();
  }

  std::string_view bytes_;
  const std::string& origin_;
  size_t at_ = 0;
};

SentencePieceModel::Piece read_piece(std::string_view bytes, const std::string& origin) {
  SentencePieceModel::Piece piece;
  Fields fields(bytes, origin);
  for (Field field; fields.next(field);) {
    if (field.number == kText) piece.text = field.bytes;
    if (field.number == kScore) piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == kType) piece.type = static_cast<int32_t>(field.value);
  }
  return piece;
}

void read_trainer_spec(std::string_view bytes, const std::string& origin, SentencePieceModel& model) {
  Fields fields(bytes, origin);
  for (Field field; fields.next(field);) {
    const auto value = static_cast<int32_t>(field.value);
    if (field.number == kModelType) model.model_type = value;
    if (field.number == kByteFallback) model.byte_fallback = value != 0;
    if (field.number == kUnkId) model.unk_id = value;
    if (field.number == kBosId) model.bos_id = value;
    if (field.number == kEosId) model.eos_id = value;
  }
}

void read_normalizer_spec(std::string_view bytes, const std::string& origin, SentencePieceModel& model) {
  Fields fields(bytes, origin);
  for (Field field; fields.next(field);) {
    if (field.number == kAddDummyPrefix) model.add_dummy_prefix = field.value != 0;
    if (field.number == kRemoveExtraWhitespaces) model.remove_extra_whitespaces = field.value != 0;
  }
}

class Message {
 public:
  void put(uint32_t number, int64_t value) {
    varint(number << 3 | kVarint);
    varint(static_cast<uint64_t>(value));
  }
  void put(uint32_t number, std::string_view bytes) {
    varint(number << 3 | kBytes);
    varint(bytes.size());
    bytes_ += bytes;
  }
  void put_float(uint32_t number, float value) {
    varint(number << 3 | kFixed32);
    char raw[sizeof value];
    std::memcpy(raw, &value, sizeof value);
    bytes_.append(raw, sizeof value);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_.push_back(static_cast<char>(value | 0x80));
    bytes_.push_back(static_cast<char>(value));
  }
  std::string bytes_;
};

}  // namespace

const char* SentencePieceModel::type_name() const {
  switch (model_type) {
    case kUnigram: return "unigram";
    case kBpe: return "BPE";
    case kWord: return "word";
    case kChar: return "character";
    default: return "unknown type";
  }
}

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& origin) {
  SentencePieceModel model;
  Fields fields(bytes, origin);
  for (Field field; fields.next(field);) {
    if (field.number == kPieces) model.pieces.push_back(read_piece(field.bytes, origin));
    if (field.number == kTrainerSpec) read_trainer_spec(field.bytes, origin, model);
    if (field.number == kNormalizerSpec) read_normalizer_spec(field.bytes, origin, model);
  }
  if (model.pieces.empty()) fail_input("{}: not a SentencePiece model: it has no pieces", origin);
  return model;
}

std::string write_sentencepiece_model(const SentencePieceModel& model) {
  Message out;
  for (const auto& piece : model.pieces) {
    Message entry;
    entry.put(kText, piece.text);
    entry.put_float(kScore, piece.score);
    entry.put(kType, int64_t{piece.type});
    out.put(kPieces, entry.bytes());
  }
  Message trainer;
  trainer.put(kModelType, int64_t{model.model_type});
  trainer.put(kByteFallback, int64_t{model.byte_fallback});
  trainer.put(kUnkId, int64_t{model.unk_id});
  trainer.put(kBosId, int64_t{model.bos_id});
  trainer.put(kEosId, int64_t{model.eos_id});
  out.put(kTrainerSpec, trainer.bytes());
  Message normalizer;
  normalizer.put(kAddDummyPrefix, int64_t{model.add_dummy_prefix});
  normalizer.put(kRemoveExtraWhitespaces, int64_t{model.remove_extra_whitespaces});
  out.put(kNormalizerSpec, normalizer.bytes());
  return out.bytes();
}

}  // namespace restkv
