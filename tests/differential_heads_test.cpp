// SPDX-License-Identifier: MIT
// The multi-head verbs and their backwards over random batches, against plain loops and dual numbers, head by head and
// sequence by sequence. differential/cases.hpp says how to run it for hours, and how to run one case alone.
#include "differential/heads.hpp"

namespace gma_test::differential {
namespace {

template <class S>
void check_heads(std::uint64_t count) {
  gma::Workspace<S> workspace;  // one for all cases: nothing of an earlier one may be seen
  for_each_case(count, [&](Random& random) {
    const bool is_long = chance(random, 0.2);
    const HeadCase c = random_head_case(random, &rounded<S>, is_long);
    SCOPED_TRACE(c.description());
    check_head_forward<S>(c, workspace);
    if (!is_long) check_head_backward<S>(c, workspace);
  });
}

TEST(Differential, HeadsInDouble) { check_heads<double>(150); }
TEST(Differential, HeadsInFloat) { check_heads<float>(100); }

/// The same bits also where several query heads share a key head.
TEST(Differential, GroupedHeadsHaveTheBitsOfSingleHeadVerbs) {
  gma::Workspace<float> workspace;
  for_each_case(150, [&](Random& random) {
    const HeadCase c = random_head_case(random, &rounded<float>, chance(random, 0.3));
    SCOPED_TRACE(c.description());
    HeadLibrary<float> library(c);
    library.forward(workspace);
    Numbers<double> single(c.query_rows.rows * c.query_heads() * c.width, 0.0);
    for (Size i = 0; i < c.query_rows.members.size(); ++i) {
      for (Size head = 0; head < c.query_heads(); ++head) {
        HeadCase::add_gathered(single, numbers_of(in_double(library.single(i, head))), c.query_rows.members[i],
                               c.query_heads(), head, c.width);
      }
    }
    EXPECT_TRUE(library.outputs.dense() == single) << "not the bits of the single-head verb";
  });
}

}  // namespace
}  // namespace gma_test::differential
