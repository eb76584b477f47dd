"""``long_name`` and ``units`` of what analysis and recommendation give."""

from calibzarr.storage import schema

_STORED = {variable.name: (variable.description, variable.units) for variable in schema.VARIABLES}

ANALYZED = {
    **_STORED,
    "step_range": ("greatest less least value, in activation units", "1"),
    "step_sqnr_db": ("SQNR of the values of a step in the best clipping range", "dB"),
    "value_range": ("greatest less least value of all steps, in activation units", "1"),
    "central_range": ("99th less 1st percentile, in activation units", "1"),
    "outlier_ratio": ("value_range over central_range", "1"),
    "sigma_variation": ("range of the widest step over that of the narrowest", "1"),
    "asymmetry": ("1st plus 99th percentile over the sum of their magnitudes", "1"),
    "sqnr_db": ("SQNR of all values in the best clipping range", "dB"),
    "weight_sqnr_db": ("SQNR of the weights in the best symmetric clipping range", "dB"),
    "post_gelu": ("whether the values leave a GELU", "1"),
    "feature_spread": ("range of the widest feature over that of the median one", "1"),
    "widest_feature": ("index of the feature with the widest range", "1"),
    "range_growth": ("share of the range that half of the images do not see", "1"),
    "mean_error": ("standard error over images of the mean, over the standard deviation", "1"),
    "bits": ("bits of a quantized value", "bit"),
    "step": ("index of the state", "1"),
}
"""Of :func:`calibzarr.analyze`, by variable."""

RECOMMENDED = {
    **_STORED,
    "activation_bits": ("bits of the inputs, 16 where they are not quantized", "bit"),
    "weight_bits": ("bits of the weights without scales, 16 where they are not quantized", "bit"),
    "weight_scheme": ("which weights share a scale, empty where none do", "1"),
    "clip_min": ("lower end of the clipping range of all calls, in activation units", "1"),
    "clip_max": ("upper end of the clipping range of all calls, in activation units", "1"),
    "clip_min_fraction": ("share of the values below clip_min", "1"),
    "clip_max_fraction": ("share of the values below clip_max", "1"),
    "value_min": ("least value, in activation units", "1"),
    "value_max": ("greatest value, in activation units", "1"),
    "value_mean": ("mean of all values, in activation units", "1"),
    "value_std": ("standard deviation of all values, in activation units", "1"),
    "p01": ("1st percentile of all values, in activation units", "1"),
    "p99": ("99th percentile of all values, in activation units", "1"),
    "reason": ("where the bits come from", "1"),
    "phase_bits": ("bits of the inputs in a phase, 0 where none are offered by phase", "bit"),
    "phase_clip_min": ("lower end of a phase's clipping range, in activation units", "1"),
    "phase_clip_max": ("upper end of a phase's clipping range, in activation units", "1"),
    "first_step": ("first call of the phase", "1"),
    "end_step": ("one past the last call of the phase", "1"),
    "sigma_min": ("noise level that the phase ends at, NaN for the last", "1"),
    "sigma_max": ("noise level that the phase begins at, NaN for the first", "1"),
    "activation_share": ("share of the predicted error that the quantized inputs make", "1"),
    "weight_share": ("share of the predicted error that the quantized weights make", "1"),
    "phase": ("phase of the sampling", "1"),
    "sensitivity_step": ("index of a measured call", "1"),
}
"""Of :func:`calibzarr.recommend`, by variable."""
