# SPDX-License-Identifier: MIT
"""Conan 2 recipe of the tree that it lies in: conan create cmake/conan. Options: with_json for the component io."""
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load


class GmaRecipe(ConanFile):
    name = "gma"
    description = "Gaussian mixture attention in linear time, header-only C++17 on Eigen"
    license = "MIT"
    topics = ("attention", "gaussian-mixture", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"with_json": [True, False]}
    default_options = {"with_json": False}
    no_copy_source = True

    @property
    def _tree(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        header = load(self, os.path.join(self._tree, "include", "gma", "version.hpp"))
        self.version = ".".join(re.search(rf"#define GMA_VERSION_{part} (\d+)", header)[1]
                                for part in ("MAJOR", "MINOR", "PATCH"))

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*"):
            copy(self, pattern, self._tree, self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        self.requires("eigen/[>=3.4.0 <6]", transitive_headers=True)
        if self.options.with_json:
            self.requires("nlohmann_json/[>=3.9 <4]", transitive_headers=True)

    def validate(self):
        if self.settings.get_safe("compiler.cppstd"):
            check_min_cppstd(self, 17)

    def package_id(self):
        self.info.clear()

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("GMA_BUILD_TESTS", "GMA_BUILD_BENCH", "GMA_BUILD_EXAMPLES", "GMA_MPI"):
            toolchain.cache_variables[part] = False
        toolchain.generate()
        CMakeDeps(self).generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        # gma's own gmaConfig.cmake serves the components compiled, io and mpi. It finds Eigen through CMakeDeps.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("share", "cmake", "gma")]
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
