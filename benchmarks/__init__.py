# SPDX-License-Identifier: Apache-2.0
"""`make bench`: holdover beside its neighbours, over the same files, in one run."""
