# SPDX-License-Identifier: Apache-2.0
"""Ways to make a process see a view. Each module has deliver, release and seen_by."""
