"""Deliberate mistakes in recognising the weather."""

HINTS = "tests/test_hints.py::"
MODELS = "tests/models/test_recognition.py::"
RESTORING = "tests/restoration/test_recognition.py::"
TRAINING = "tests/training/test_recognition.py::"

MUTATIONS = [
    (
        "restore_diff/build.py",
        'training.part == "recognition" and render is None',
        "False",
        "tests/commands/test_train.py::test_recognition_is_learned_on_weights_that_have_none_and_used_by_restoring",
    ),
    (
        "restore_diff/hints.py",
        "belief[:, none] > POSSIBLE",
        "belief[:, none] > 0.5",
        f"{HINTS}test_what_may_be_clean_is_told_so_as_far_as_it_is_believed",
    ),
    (
        "restore_diff/hints.py",
        "(belief[:, none] > POSSIBLE) & ~hint.any(1)",
        "~hint.any(1)",
        f"{HINTS}test_a_belief_becomes_a_hint_where_weather_is_sure_and_no_other_kind_is_likely",
    ),
    (
        "restore_diff/hints.py",
        " & alone",
        "",
        f"{HINTS}test_a_belief_becomes_a_hint_where_weather_is_sure_and_no_other_kind_is_likely",
    ),
    (
        "restore_diff/models/layers.py",
        "torch.cat([F.layer_norm(part, part.shape[1:]) for part in pooled], dim=1)",
        "F.layer_norm(torch.cat(pooled, dim=1), (self.hidden.in_features,))",
        f"{MODELS}test_layers_count_alike_however_large_their_features_are",
    ),
    (
        "restore_diff/models/unet.py",
        "with torch.no_grad():",
        "with torch.enable_grad():",
        f"{MODELS}test_it_reads_features_that_it_does_not_change",
    ),
    (
        "restore_diff/models/unet.py",
        "self.weather_head([*skips, features])",
        "self.weather_head([*skips, skips[-1]])",
        f"{MODELS}test_the_last_features_are_among_those_it_reads",
    ),
    (
        "restore_diff/restoration/recognition.py",
        ".mean(0, keepdim=True)",
        "[:1]",
        f"{RESTORING}test_the_belief_is_the_mean_over_the_windows_and_the_surest_counts_no_more_than_98_percent",
    ),
    (
        "restore_diff/restoration/recognition.py",
        ".clamp(-SUREST, SUREST)",
        "",
        f"{RESTORING}test_the_belief_is_the_mean_over_the_windows_and_the_surest_counts_no_more_than_98_percent",
    ),
    (
        "restore_diff/restoration/recognition.py",
        "[(length - side) // 2], side",
        "[0], side",
        f"{RESTORING}test_half_a_window_more_than_one_is_seen_by_the_one_in_the_middle",
    ),
    (
        "restore_diff/restoration/recognition.py",
        "enabled=self.bfloat16",
        "enabled=False",
        f"{RESTORING}test_it_looks_in_bfloat16_where_the_network_restores_in_it",
    ),
    (
        "restore_diff/build.py",
        "amd and able",
        "able",
        "tests/test_build.py::test_a_cpu_takes_bfloat16_where_it_computes_with_it",
    ),
    (
        "restore_diff/restoration/recognition.py",
        "self.last_t, device",
        "0, device",
        f"{RESTORING}test_a_small_image_is_seen_whole_at_the_last_t_as_the_network_needs_it",
    ),
    (
        "restore_diff/restoration/recognition.py",
        "/ (number - 1))",
        "/ number)",
        f"{RESTORING}test_of_a_large_image_nine_windows_reach_its_ends",
    ),
    (
        "restore_diff/restoration/restorer.py",
        "self._told(image)._restore(image",
        "self._told(degraded[:1])._restore(image",
        f"{RESTORING}test_images_of_a_batch_are_looked_at_one_by_one",
    ),
    (
        "restore_diff/training/recogniser.py",
        "        network.requires_grad_(False)\n",
        "",
        f"{TRAINING}test_it_learns_the_weather_and_leaves_the_network_as_it_was",
    ),
    (
        "restore_diff/training/optimisation.py",
        "errors.mean(1) * known",
        "errors.mean(1)",
        f"{TRAINING}test_the_loss_is_the_cross_entropy_of_each_kind_where_the_weather_is_known",
    ),
    (
        "restore_diff/training/optimisation.py",
        "torch.full_like(t, num_timesteps - 1)",
        "t",
        f"{TRAINING}test_the_loss_is_the_cross_entropy_of_each_kind_where_the_weather_is_known",
    ),
    (
        "restore_diff/trained.py",
        "tensors=head | weights.tensors",
        "tensors=weights.tensors",
        "tests/commands/test_train.py::test_recognition_is_learned_on_weights_that_have_none_and_used_by_restoring",
    ),
    (
        "restore_diff/build.py",
        'None if weather == "unknown" else weather',
        "weather",
        "tests/commands/test_shipped.py::test_a_hint_tells_the_network_what_to_take_out",
    ),
]
