// SPDX-License-Identifier: MIT
// The version of gma, for the preprocessor and for the build system, which reads it from this file.
#pragma once

#define GMA_VERSION_MAJOR 0  ///< before 1, a minor version may break
#define GMA_VERSION_MINOR 1  ///< new features
#define GMA_VERSION_PATCH 0  ///< repairs

/// One number to compare with: 1000000 * major + 1000 * minor + patch.
#define GMA_VERSION (GMA_VERSION_MAJOR * 1000000 + GMA_VERSION_MINOR * 1000 + GMA_VERSION_PATCH)
