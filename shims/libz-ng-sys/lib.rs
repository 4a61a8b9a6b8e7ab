//! zlib's API from `libz-rs-sys` (zlib in Rust) under the name of the C bindings.
//!
//! pingora-core asks flate2 for its zlib-ng backend, whose bindings build C with cmake. A fresh
//! machine has the Rust toolchain and no cmake. The two crates export the same functions; only the
//! allocator fields of `z_stream` differ in type (a function here, an optional one there), with the
//! same layout, so every call is a cast of the stream's pointer.

#![allow(non_snake_case, non_camel_case_types, clippy::missing_safety_doc)]

use core::ffi::{c_char, c_int, c_uint, c_void};

pub use libz_rs_sys::{
    Z_BLOCK, Z_BUF_ERROR, Z_DATA_ERROR, Z_DEFAULT_STRATEGY, Z_DEFLATED, Z_FINISH, Z_FULL_FLUSH,
    Z_MEM_ERROR, Z_NEED_DICT, Z_NO_FLUSH, Z_OK, Z_PARTIAL_FLUSH, Z_STREAM_END, Z_STREAM_ERROR,
    Z_SYNC_FLUSH, uInt, zlibVersion,
};

pub type alloc_func = unsafe extern "C" fn(*mut c_void, c_uint, c_uint) -> *mut c_void;
pub type free_func = unsafe extern "C" fn(*mut c_void, *mut c_void);

/// zlib's stream, as C declares it.
#[repr(C)]
pub struct z_stream {
    pub next_in: *mut u8,
    pub avail_in: c_uint,
    pub total_in: libz_rs_sys::uLong,
    pub next_out: *mut u8,
    pub avail_out: c_uint,
    pub total_out: libz_rs_sys::uLong,
    pub msg: *mut c_char,
    pub state: *mut c_void,
    pub zalloc: alloc_func,
    pub zfree: free_func,
    pub opaque: *mut c_void,
    pub data_type: c_int,
    pub adler: libz_rs_sys::uLong,
    pub reserved: libz_rs_sys::uLong,
}

const _: () = assert!(size_of::<z_stream>() == size_of::<libz_rs_sys::z_stream>());

/// Each is the function of the same name in zlib.
macro_rules! same {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        pub unsafe extern "C" fn $name(stream: *mut z_stream, $($arg: $ty),*) -> c_int {
            // SAFETY: the layouts are the same (checked above), the caller keeps zlib's contract.
            unsafe { libz_rs_sys::$name(stream.cast(), $($arg),*) }
        }
    )*};
}

same! {
    deflate(flush: c_int);
    deflateEnd();
    deflateReset();
    deflateParams(level: c_int, strategy: c_int);
    deflateSetDictionary(dictionary: *const u8, length: c_uint);
    deflateInit2_(level: c_int, method: c_int, bits: c_int, memory: c_int, strategy: c_int,
        version: *const c_char, size: c_int);
    inflate(flush: c_int);
    inflateEnd();
    inflateReset2(bits: c_int);
    inflateSetDictionary(dictionary: *const u8, length: c_uint);
    inflateInit2_(bits: c_int, version: *const c_char, size: c_int);
}
