//! What a call used, as the provider reports it.

/// Tokens of one call, from a `usage` object of any endpoint. Parts are contained in their totals:
/// cached, cache-write, audio and image input in `input`, reasoning, audio and image output in
/// `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All input tokens (`prompt_tokens` or `input_tokens`).
    pub input: u64,
    /// Input read from the prompt cache.
    pub cached_input: u64,
    /// Input written to the prompt cache.
    pub cache_write: u64,
    /// Audio input.
    pub audio_input: u64,
    /// Image input.
    pub image_input: u64,
    /// All output tokens (`completion_tokens` or `output_tokens`); 0 for embeddings.
    pub output: u64,
    /// Hidden reasoning output.
    pub reasoning: u64,
    /// Audio output.
    pub audio_output: u64,
    /// Image output.
    pub image_output: u64,
}
