#include "model/tokenizer/hf_processors.h"

#include <algorithm>

#include "dist/base/error.h"

namespace restkv {
namespace {

constexpr int kMaxDepth = 4;  // of Sequences inside Sequences
constexpr const char* kPieceDecoders = "supported: Replace, ByteFallback, Fuse, Strip, in this order";

std::vector<JsonValue> decoder_steps(const JsonValue& decoder) {
  std::vector<JsonValue> steps;
  if (decoder.is_null()) return steps;
  if (decoder.at("type").string() != "Sequence") return {decoder};
  const JsonValue members = decoder.at("decoders");
  for (size_t i = 0; i < members.array().size(); ++i) steps.push_back(members.at(i));
  return steps;
}

void read_replace(const JsonValue& step, PieceDecoding& out) {
  const JsonValue from = step.at("pattern").at("String");
  if (from.is_null() || from.string().empty()) step.at("pattern").fail("supported: a \"String\" that is not empty");
  const std::string& to = step.at("content").string();
  if (to != " ") step.at("content").fail(fmt::format("found '{}'; supported: a space", to));
  out.space = from.string();
}

void read_strip(const JsonValue& step, PieceDecoding& out) {
  const std::string& content = step.at("content").string();
  if (content != " ") step.at("content").fail(fmt::format("found '{}'; supported: a space", content));
  if (step.at("stop").integer() != 0) step.at("stop").fail("supported: 0 (nothing is taken from the end)");
  out.leading_spaces = step.at("start").integer();
  if (out.leading_spaces < 0) step.at("start").fail("expected 0 or more");
}

void read_template(const JsonValue& single, HfTemplate& out) {
  bool after = false;
  for (size_t i = 0; i < single.array().size(); ++i) {
    const JsonValue part = single.at(i);
    const JsonValue token = part.at("SpecialToken");
    if (token.is_null()) {
      if (part.at("Sequence").is_null() || after) part.fail("expected a SpecialToken, or the Sequence once");
      after = true;
      continue;
    }
    std::string& side = after ? out.trailing : out.leading;
    if (!side.empty()) single.fail("supported: at most one special token on each side of the text");
    side = token.at("id").string();
  }
  if (!after) single.fail("the text itself (a Sequence) is missing");
}

void read_processor(const JsonValue& processor, int depth, HfTemplate& out) {
  if (processor.is_null()) return;
  const std::string& type = processor.at("type").string();
  if (type == "ByteLevel") return;  // moves offsets only
  if (type == "TemplateProcessing") return read_template(processor.at("single"), out);
  if (type != "Sequence" || depth == kMaxDepth)
    processor.fail(fmt::format("found type '{}'; supported: ByteLevel, TemplateProcessing, Sequence", type));
  const JsonValue members = processor.at("processors");
  for (size_t i = 0; i < members.array().size(); ++i) read_processor(members.at(i), depth + 1, out);
}

}  // namespace

void require_byte_level_decoder(const JsonValue& decoder) {
  for (const JsonValue& step : decoder_steps(decoder))
    if (step.at("type").string() != "ByteLevel")
      decoder.fail(
          fmt::format("found type '{}'; supported for a byte-level model: ByteLevel", step.at("type").string()));
}

PieceDecoding read_hf_piece_decoder(const JsonValue& decoder) {
  static constexpr const char* kOrder[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
  const std::vector<JsonValue> steps = decoder_steps(decoder);
  PieceDecoding out;
  size_t next = 0;  // in kOrder
  bool fused = false;
  for (const JsonValue& step : steps) {
    const std::string& type = step.at("type").string();
    while (next < std::size(kOrder) && type != kOrder[next]) ++next;
    if (next == std::size(kOrder)) decoder.fail(fmt::format("found type '{}'; {}", type, kPieceDecoders));
    if (type == "Replace") read_replace(step, out);
    if (type == "ByteFallback") out.byte_fallback = true;
    if (type == "Fuse") fused = true;
    if (type == "Strip") read_strip(step, out);
    ++next;
  }
  // Without Fuse the reference puts nothing else between the pieces, but Strip would work on each of them.
  if (steps.empty()) decoder.fail(fmt::format("found none; {}", kPieceDecoders));
  if (out.leading_spaces > 0 && !fused) decoder.fail("Strip without Fuse before it is not supported");
  return out;
}

HfTemplate read_hf_post_processor(const JsonValue& processor) {
  HfTemplate out;
  read_processor(processor, 0, out);
  return out;
}

}  // namespace restkv
