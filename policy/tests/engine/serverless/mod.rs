//! The pack of Serverless Containers: its compatible mode against what the original decided, its default mode against what the
//! original does badly.
//!
//! The reference cases are answered by the pack's own text, in which inputs and settings are replaced by those of a case.

mod cases;
mod default_mode;
mod events;
mod limits;
mod requests;
mod sequence;
mod settings;
mod text;
mod window;
