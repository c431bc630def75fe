// Reads the "decoder" and "post_processor" of a Hugging Face tokenizer.json.
#pragma once

#include <string>

#include "model/json_reader.h"
#include "model/tokenizer/bpe_tokenizer.h"

namespace restkv {

/// `decoder` of a byte-level model: ByteLevel or null. Throws InputError naming what is supported.
void require_byte_level_decoder(const JsonValue& decoder);

/// `decoder` of a model over characters: any of Replace (the space's sign by a space), ByteFallback, Fuse and Strip (at
/// the beginning), in this order. Throws InputError naming what is supported.
PieceDecoding read_hf_piece_decoder(const JsonValue& decoder);

/// The tokens that are put around a text.
struct HfTemplate {
  std::string leading, trailing;  ///< empty: none
};

/// Throws InputError for more than one token on a side, and for other processors than ByteLevel, TemplateProcessing and
/// Sequence.
HfTemplate read_hf_post_processor(const JsonValue& processor);

}  // namespace restkv
