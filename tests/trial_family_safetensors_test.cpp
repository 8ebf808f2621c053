// SPDX-License-Identifier: MIT
// Layers of a covariance family of a user's own go into safetensors files, and so do those of gma's own families and
// routings.
#include "gma/baselines/layer_features.hpp"
#include "gma/testing/family_safetensors.hpp"
#include "support.hpp"
#include "trial_family.hpp"

namespace gma_test {
namespace {

TEST(TrialFamilyFiles, ComeBack) { GMA_EXPECT_FAMILY_FILES(Halves); }

TEST(OwnFamilyFiles, ComeBack) {
  all_families::for_each([](auto family) { GMA_EXPECT_FAMILY_FILES(decltype(family)); });
  GMA_EXPECT_FAMILY_FILES(gma::baselines::Elu);
  GMA_EXPECT_FAMILY_FILES(gma::baselines::RandomFeatures);
}

}  // namespace
}  // namespace gma_test
