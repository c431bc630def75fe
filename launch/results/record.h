// A finished request as one JSON line, and as the table that ends a run. launch/README.md lists the members.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "launch/config/run_config.h"
#include "launch/prompts/prompts.h"
#include "launch/run/generate.h"

namespace restkv {

/// What all ranks know of a request together. Times are the slowest rank's, bytes sent are summed over the ranks.
struct RequestSummary {
  double prefill_s = 0.0;  ///< evict_s included
  double evict_s = 0.0;
  double decode_s = 0.0;
  double feed_s = 0.0;
  std::vector<int64_t> peak_bytes;           ///< [ranks] tensors held at most during this request
  std::vector<int64_t> peak_resident_bytes;  ///< [ranks] largest resident size of the process so far
  std::vector<int64_t> cache_bytes;          ///< [ranks] rows in use after prefill
  int64_t sent_prefill = 0, sent_evict = 0, sent_reshard = 0, sent_decode = 0;
  std::vector<std::array<int64_t, 3>> sent_by_layer;  ///< [layers] prefill, evict, reshard
};

/// PrefillReport::layer_bytes over all ranks. Collective over the world.
std::vector<std::array<int64_t, 3>> sum_layer_bytes(Communicator& world, std::vector<std::array<int64_t, 3>> own);

/// Collective over the world; every rank gets the same.
RequestSummary summarize(Communicator& world, const Generation& generation, int64_t peak_bytes,
                         int64_t peak_resident_bytes);

struct Layout {
  int64_t sequence = 1, tensor = 1, threads = 1;
  std::string decode;  ///< "sequence" or "tensor"
  std::string device;  ///< "cpu" or "gpu"
};

/// One line, without its newline.
std::string to_json_line(const Request& request, const Generation& generation, const RequestSummary& summary,
                         const Layout& layout, const RunConfig& config);

/// The closing table of one request, several lines.
std::string to_table(const Request& request, const Generation& generation, const RequestSummary& summary);

/// "12.3 MiB", "900 B"
std::string format_bytes(int64_t bytes);

}  // namespace restkv
