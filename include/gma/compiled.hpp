// SPDX-License-Identifier: MIT
// Short builds: declares that the inner loops for float and double are instantiated elsewhere, in the library target
// gma::compiled, so that a program that includes this header and links the target does not compile them again. Without
// it everything is compiled where it is used. The flags of the target and of the program must select the same
// instruction set, since the loops use all of it.
#pragma once

#include "gma/attention/bidirectional.hpp"
#include "gma/attention/causal.hpp"
#include "gma/attention/causal_backward.hpp"
#include "gma/attention/read_backward.hpp"
#include "gma/attention/write_backward.hpp"

// Empty in the one source file that instantiates them.
#ifndef GMA_COMPILED_ELSEWHERE
#define GMA_COMPILED_ELSEWHERE extern
#endif

#define GMA_COMPILED_FOR(S)                                                                                            \
  GMA_COMPILED_ELSEWHERE template void advance<CompiledMixture<S>, S>(const CompiledMixture<S>&, const TokenView<S>&,  \
                                                                      const TokenStream<S>&, const Options&,           \
                                                                      Memory<S>*, const TokenSink<S>&, Workspace<S>&); \
  GMA_COMPILED_ELSEWHERE template void write_into<CompiledMixture<S>, S>(                                              \
      const CompiledMixture<S>&, const TokenStream<S>&, const Options&, Memory<S>&, Workspace<S>&);                    \
  GMA_COMPILED_ELSEWHERE template LongMemory<S> write_all<CompiledMixture<S>, S>(                                      \
      const CompiledMixture<S>&, const TokenStream<S>&, Index, const Executor*, bool, Workspace<S>&);                  \
  GMA_COMPILED_ELSEWHERE template void read_tokens<CompiledMixture<S>, S>(                                             \
      const CompiledMixture<S>&, const TokenView<S>&, const MemoryTiles<S>&, Normalization, Index, const Executor*,    \
      const TokenSink<S>&, Workspace<S>&);                                                                             \
  GMA_COMPILED_ELSEWHERE template void read_tokens_backward<CompiledMixture<S>, S>(                                    \
      const CompiledMixture<S>&, const TokenView<S>&, const LongMemory<S>&, const TokenView<S>&, Normalization, Index, \
      const Executor*, const S*, const TokenSink<S>&, LongMemory<S>&, GradientSum<CompiledMixture<S>, S>&,             \
      Workspace<S>&);                                                                                                  \
  GMA_COMPILED_ELSEWHERE template void write_tokens_backward<CompiledMixture<S>, S>(                                   \
      const CompiledMixture<S>&, const TokenStream<S>&, const Memory<S>*, Index, const Executor*, const S*,            \
      const LongMemory<S>&, TokenGradients<S>, GradientSum<CompiledMixture<S>, S>&, Workspace<S>&);                    \
  GMA_COMPILED_ELSEWHERE template void causal_backward_tokens<CompiledMixture<S>, S>(                                  \
      const CompiledMixture<S>&, const TokenView<S>&, const TokenStream<S>&, const TokenView<S>&, const Options&,      \
      LongMemory<S>&, const S&, bool, const TokenGradients<S>&, GradientSum<CompiledMixture<S>, S>&, Workspace<S>&);   \
  GMA_COMPILED_ELSEWHERE template void slot_backward_tokens<CompiledMixture<S>, S>(                                    \
      const CompiledMixture<S>&, const TokenView<S>*, const TokenStream<S>&, const TokenView<S>*, const Options&,      \
      LongMemory<S>&, S, const TokenGradients<S>&, GradientSum<CompiledMixture<S>, S>&, Workspace<S>&);

namespace gma::detail {

GMA_COMPILED_FOR(float)
GMA_COMPILED_FOR(double)

}  // namespace gma::detail

#undef GMA_COMPILED_FOR
