// SPDX-License-Identifier: MIT

#include "classifier.hpp"

template class classification::Classifier<float>;
